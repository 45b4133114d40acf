"""The container's recipe and the composition, read as text: there is no engine in a test."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deploy/image"
ENTRYPOINT = IMAGE / "entrypoint.py"


def dockerfile_stages():
    """Name to base and instructions, for each stage of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stages, current = {}, None
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = stages[name] = {"base": base, "lines": []}
        elif word and not word.startswith("#") and current is not None:
            current["lines"].append((word, rest.strip()))
    return stages


@pytest.fixture(scope="module")
def stages():
    return dockerfile_stages()


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def image_script(name):
    """A script that runs while an image is built, as a module."""
    return types.SimpleNamespace(**runpy.run_path(str(IMAGE / f"{name}.py")))


@pytest.mark.parametrize("target", ["cpu", "guard", "cuda"])
def test_every_target_runs_unprivileged_and_with_a_health_check(stages, target):
    lines = stages[target]["lines"]
    assert lines[-1] == ("USER", "10001:10001")
    assert ("COPY", f"--from=build-{target} /opt/codefend /opt/codefend") in lines
    runtime = dict(stages[stages[target]["base"]]["lines"])
    assert "/healthz" in runtime["HEALTHCHECK"]
    assert runtime["CMD"] == '["codefend", "serve"]'
    built = " ".join(rest for word, rest in stages[f"build-{target}"]["lines"] if word == "RUN")
    assert "sh deploy/image/finish.sh /opt/codefend" in built


def test_a_build_without_a_target_makes_what_answers_by_itself(stages):
    assert list(stages)[-1] == "cpu"


def test_the_images_hold_what_their_user_could_not_write(stages):
    """Converted networks lie beside the weights, and those belong to root."""
    commands = [rest for word, rest in stages["build-cpu"]["lines"] if word == "RUN"]
    assert "openvino" in commands[-2]
    assert "codefend prepare" in commands[-1]
    copied = [rest for word, rest in stages["build-guard"]["lines"] if word == "COPY"]
    assert copied == ["--from=build-cpu /opt/prepared /opt/codefend"]


def test_only_the_serving_rooms_enter_the_image(stages):
    copied = {rest for stage in stages.values() for word, rest in stage["lines"] if word == "COPY"}
    assert not any("lab" in rest or rest.startswith(". ") for rest in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == {
        "pyproject.toml", "constraints.txt", "README.md", "LICENSE",
        "codefend", "service", "models", "gallery", "deploy/image",
    }  # fmt: skip


def test_package_indexes_are_arguments_without_a_default(stages):
    arguments = {
        rest for stage in stages.values() for word, rest in stage["lines"] if word == "ARG"
    }
    assert {rest for rest in arguments if "=" not in rest} == {
        "PIP_INDEX_URL", "PIP_FIND_LINKS", "CPU_TORCH_INDEX_URL", "CUDA_TORCH_INDEX_URL",
        "PYTHON_IMAGE",
    }  # fmt: skip
    text = (ROOT / "Dockerfile").read_text()
    assert "http" not in text.replace("http://127.0.0.1", "")


def test_the_images_python_is_the_tested_one(stages):
    tested = "{}.{}".format(*sys.version_info[:2])
    default = re.search(r"^ARG PYTHON_IMAGE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert tested != "3.11" or default[1].startswith("python:3.11-")


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["docker", "podman", "buildah"])
def test_every_builder_makes_every_target_with_its_health_check(builder):
    command = ["make", "--dry-run", "image", f"BUILDER={builder}", "TARGETS=cpu guard cuda"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "for target in cpu guard cuda;" in said
    assert f"{builder} build " in said
    assert ("--format docker" in said) == (builder != "docker")


@pytest.mark.slow
def test_without_a_builder_it_is_said(tmp_path):
    (tmp_path / "sh").symlink_to("/bin/sh")
    make = shutil.which("make")
    done = subprocess.run(
        [make, "image"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "needs docker, podman or buildah" in done.stdout


# What is installed, and what is left out.


def test_packages_are_the_projects_own_with_torch_or_without():
    requirements = image_script("packages").requirements
    name_of = image_script("packages").name_of
    pyproject = ROOT / "pyproject.toml"
    whole = requirements(pyproject, ["openvino"], with_torch=True)
    small = requirements(pyproject, ["openvino"], with_torch=False)
    left_out = {name_of(row) for row in whole} - {name_of(row) for row in small}
    assert left_out == {"torch", "diffusers", "transformers", "accelerate", "peft"}
    assert {"openvino", "numpy", "safetensors"} <= {name_of(row) for row in small}
    with pytest.raises(KeyError):
        requirements(pyproject, ["openvno"], with_torch=True)


@pytest.mark.slow
def test_nothing_that_a_small_image_imports_needs_torch():
    """Everything the service loads before its first worker, in an environment without torch."""
    code = """
import sys
for name in ("torch", "diffusers", "transformers", "accelerate", "peft"):
    sys.modules[name] = None
import codefend.service.cli, codefend.service.server, codefend.service.app
import codefend.service.purify.openvino_engine, codefend.service.purify.worker
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_serving_never_opens_is_removed(tmp_path):
    packages = tmp_path / "lib/python3.11/site-packages"
    kept = ["torch/lib/libtorch_cpu.so", "torch/testing/x.py", "codefend/__init__.py"]
    gone = ["torch/test/a", "torch/lib/libjitbackend_test.so", "sympy/core/tests/t.py", "pip/p.py"]
    for name in (*kept, *gone):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(b"12345")
    image_script("prune").main(tmp_path)
    assert [name for name in kept if not (packages / name).exists()] == []
    assert [name for name in gone if (packages / name).exists()] == []


def test_the_guard_starts_alone_and_everything_else_by_profile(compose):
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {
        "guard": None,
        "vllm": ["vllm"],
        "ollama": ["ollama"],
        "ollama-model": ["ollama"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
        "otel-collector": ["observability"],
    }


@pytest.mark.parametrize("model", ["vllm", "ollama"])
def test_nothing_reaches_a_model_but_through_the_guard(compose, model):
    services = compose["services"]
    assert "ports" not in services[model]
    assert services[model]["networks"] == ["back"]
    beside = {
        name
        for name, service in services.items()
        if {*service["networks"]} & {*services[model]["networks"]}
    }
    published = {name for name, service in services.items() if "ports" in service}
    assert beside & published == {"guard"}
    assert beside <= {"guard", model, "vllm", "ollama", "ollama-model"}


def test_everything_that_is_published_is_so_on_loopback(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_prometheus_asks_where_the_metrics_are(compose):
    config = yaml.safe_load((ROOT / "deploy/observability/prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "codefend"]
    port = compose["services"]["guard"]["environment"]["CODEFEND_METRICS_PORT"]
    assert job["static_configs"] == [{"targets": [f"guard:{port}"]}]
    assert config["rule_files"] == ["rules.yml"]


def test_what_is_mounted_out_of_the_repository_is_there(compose):
    mounts = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert len(mounts) == 5
    assert [path for path in mounts if not (ROOT / path).exists()] == []


def test_the_guard_is_confined_and_published_on_loopback(compose):
    guard = compose["services"]["guard"]
    assert guard["ports"][0].startswith("127.0.0.1:")
    assert guard["read_only"] is True
    assert guard["cap_drop"] == ["ALL"]
    assert guard["shm_size"] == "2gb"


def test_the_composition_sets_only_settings_that_exist(compose):
    from codefend.service.settings import Settings

    names = {f"CODEFEND_{name.upper()}" for name in Settings.model_fields}
    names.add("CODEFEND_API_KEY_FILE")
    assert set(compose["services"]["guard"]["environment"]) <= names


def start(environment, key_file=None):
    """Runs the entrypoint; returns the key that the command finds, and the log."""
    environment = {"PATH": os.environ["PATH"], **environment}
    if key_file is not None:
        environment["CODEFEND_API_KEY_FILE"] = str(key_file)
    command = [sys.executable, "-c", "import os; print(os.environ['CODEFEND_API_KEYS'])"]
    done = subprocess.run(
        [sys.executable, ENTRYPOINT, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.slow
def test_a_configured_key_is_kept(tmp_path):
    assert start({"CODEFEND_API_KEYS": "mine"}, tmp_path / "key") == ("mine", "")
    assert not (tmp_path / "key").exists()


@pytest.mark.slow
def test_a_key_is_made_once_and_found_again(tmp_path):
    path = tmp_path / "key"
    key, log = start({"CODEFEND_API_KEYS": ""}, path)
    assert len(key) > 30
    assert key not in log
    assert path.stat().st_mode & 0o777 == 0o600
    assert start({}, path) == (key, "")


@pytest.mark.slow
def test_without_a_file_the_key_is_shown():
    key, log = start({})
    assert key in log


def test_importing_the_entrypoint_runs_nothing():
    assert "main" in runpy.run_path(str(ENTRYPOINT))
