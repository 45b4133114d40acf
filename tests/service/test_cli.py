"""The command line, with the fake engine."""

import json
import re
import socket

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from codefend.models import manifest
from codefend.models.purifier.eight_bit import measured_ranges
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.ranges import write_ranges
from codefend.service.cli import app
from codefend.service.settings import Settings
from codefend.service.startup import describe_first_steps, installed_version
from tests.installed import needs_openvino
from tests.service.fake_engine import IMPORT_PATH
from tests.service.pictures import animated, encode, picture, pixels_of, png


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("CODEFEND_ENGINE", IMPORT_PATH)
    monkeypatch.delenv("CODEFEND_API_KEYS", raising=False)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    (source / "a.png").write_bytes(png(seed=1))
    (source / "a.jpg").write_bytes(encode(picture(seed=2), "JPEG"))
    (source / "deep" / "b.webp").write_bytes(encode(picture(seed=3), "WEBP"))
    (source / "notes.txt").write_text("no image")
    return source


def test_one_file(tmp_path):
    (tmp_path / "in.png").write_bytes(png())
    assert run("purify", tmp_path / "in.png", tmp_path / "out.png").exit_code == 0
    assert np.array_equal(pixels_of((tmp_path / "out.png").read_bytes()), 255 - picture())


def test_a_folder_and_then_only_what_is_missing(folder, tmp_path):
    target = tmp_path / "out"
    assert run("purify", folder, target).exit_code == 0
    names = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert names == ["a.jpg.png", "a.png", "deep/b.webp.png"]
    (target / "a.png").write_bytes(b"kept")
    (target / "a.jpg.png").unlink()
    assert run("purify", folder, target).exit_code == 0
    assert (target / "a.png").read_bytes() == b"kept"
    assert (target / "a.jpg.png").exists()
    assert run("purify", folder, target, "--overwrite").exit_code == 0
    assert (target / "a.png").read_bytes() != b"kept"


def test_a_bad_file_is_named_and_the_others_are_done(folder, tmp_path):
    (folder / "bad.png").write_bytes(animated("PNG"))
    result = run("purify", folder, tmp_path / "out")
    assert result.exit_code == 1
    assert "bad.png" in result.output
    assert (tmp_path / "out" / "a.png").exists()
    assert not list((tmp_path / "out").rglob("*unfinished*"))


def test_an_interruption_leaves_no_half_file(folder, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("codefend.service.offline.encode_image", interrupt)
    result = run("purify", folder, tmp_path / "out")
    assert result.exit_code == 130
    assert not (tmp_path / "out").exists()


def test_prepare_loads_the_engine_of_every_device(monkeypatch):
    monkeypatch.setenv("CODEFEND_DEVICES", "cpu,cpu")
    result = run("prepare")
    assert result.exit_code == 0
    assert result.stdout == "fake 1 is ready on cpu\n" * 2


@needs_openvino
def test_prepare_leaves_what_any_processor_would_convert(tmp_path, monkeypatch):
    pipeline = PurificationPipeline.tiny(0)
    pipeline.save_pretrained(tmp_path)
    picture = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    write_ranges(tmp_path, measured_ranges(pipeline, [picture], torch.Generator()))
    monkeypatch.setenv("CODEFEND_ENGINE", "codefend.service.purify.backends:load_engine")
    monkeypatch.setenv("CODEFEND_DEVICES", "cpu")
    monkeypatch.setenv("CODEFEND_PURIFIER", str(tmp_path))
    monkeypatch.setenv("CODEFEND_DETECTOR", "none")
    assert run("prepare").exit_code == 0
    kept = sorted(entry.name.partition("-")[0] for entry in (tmp_path / ".openvino").iterdir())
    assert kept == ["float32", "int8"]


def test_nothing_to_purify(tmp_path):
    assert run("purify", tmp_path / "none.png", tmp_path / "out.png").exit_code == 2


def test_config_hides_secrets(monkeypatch):
    monkeypatch.setenv("CODEFEND_API_KEYS", "very-secret")
    result = run("config")
    assert result.exit_code == 0
    assert "CODEFEND_MAX_BATCH=" in result.output
    assert "very-secret" not in result.output
    for line in result.output.splitlines():
        json.loads(line.partition("=")[2].partition("  # ")[0])


def test_a_public_address_without_a_key_is_refused_clearly(monkeypatch):
    monkeypatch.setenv("CODEFEND_HOST", "0.0.0.0")
    result = run("serve")
    assert result.exit_code == 2
    assert "CODEFEND_API_KEYS" in result.output


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(monkeypatch, served):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("CODEFEND_PORT", str(listener.getsockname()[1]))
        result = run("serve")
    assert (served, result.exit_code) == ([], 2)
    assert "already in use. Set CODEFEND_PORT" in result.output


def test_an_address_of_another_machine_is_said_too(monkeypatch, served):
    monkeypatch.setenv("CODEFEND_HOST", "192.0.2.1")
    monkeypatch.setenv("CODEFEND_API_KEYS", "a-key")
    result = run("serve")
    assert (served, result.exit_code) == ([], 2)
    assert "CODEFEND_HOST to an address of this machine" in result.output


@pytest.mark.parametrize(
    ("settings", "said", "unsaid"),
    [
        (
            {},
            ["http://127.0.0.1:8000/v1/vqa -F", "embedded", "http://127.0.0.1:8000/\n"],
            ["Bearer"],
        ),
        (
            {
                "host": "0.0.0.0",
                "api_keys": ["a-secret"],
                "upstream_url": "http://u:p@vllm:8000/v1",
            },
            [
                "ready at http://127.0.0.1:8000 ",
                "-H 'Authorization: Bearer YOUR-KEY'",
                "//vllm:8000",
            ],
            ["a-secret", "u:p", "embedded", "Page"],
        ),
        ({"host": "::1", "port": 9000}, ["http://[::1]:9000/v1"], []),
    ],
)
def test_the_first_steps_are_those_of_the_settings(settings, said, unsaid):
    text = describe_first_steps(Settings(**settings), 12.3)
    assert [part for part in said if part not in text] == []
    assert [part for part in unsaid if part in text] == []


def test_every_command_says_what_it_does_with_an_example():
    for command in ((), ("serve",), ("purify",), ("mllm",)):
        assert re.search(r"^ *\$ .*codefend", run(*command, "--help").output, re.MULTILINE), command


def list_weights(directory):
    """A folder of weights, and the manifest that lists it."""
    (directory / "net").mkdir()
    (directory / "net" / "model.safetensors").write_bytes(b"x")
    entry = manifest.describe_weights(
        "net", licence="Apache-2.0", command="train", figures={}, directory=directory
    )
    manifest.write_manifest([entry], directory)


def test_verify_names_what_is_wrong(monkeypatch, tmp_path):
    list_weights(tmp_path)
    for function in (manifest.read_manifest, manifest.verify_weights):
        monkeypatch.setattr(function, "__defaults__", (tmp_path,))
    assert run("verify").output == "net: ok\n"
    (tmp_path / "net" / "model.safetensors").write_bytes(b"y")
    result = run("verify")
    assert result.exit_code == 1
    assert "sha256" in result.output


def test_verify_passes_over_what_a_wheel_leaves_out_and_nothing_else(monkeypatch, tmp_path):
    list_weights(tmp_path)
    monkeypatch.setattr(manifest, "WEIGHTS_DIRECTORY", tmp_path)
    for function in (manifest.read_manifest, manifest.verify_weights):
        monkeypatch.setattr(function, "__defaults__", (tmp_path,))
    (tmp_path / "net" / "model.safetensors").unlink()
    (tmp_path / "net").rmdir()
    assert run("verify").exit_code == 1
    monkeypatch.setattr(manifest, "LABORATORY_WEIGHTS", {"net"})
    result = run("verify")
    assert result.exit_code == 0
    assert "a checkout has it" in result.output


@pytest.mark.parametrize(("mode", "starts"), [("enforce", False), ("off", True)])
def test_altered_weights_are_not_served(monkeypatch, tmp_path, mode, starts):
    list_weights(tmp_path)
    monkeypatch.setenv("CODEFEND_PURIFIER", str(tmp_path / "net"))
    monkeypatch.setenv("CODEFEND_MODE", mode)
    served = []
    monkeypatch.setattr("codefend.service.server.serve", served.append)
    monkeypatch.setattr(
        "codefend.service.logs.configure_logs", lambda _: None
    )  # it would outlive the test
    assert run("serve").exit_code == 0
    assert served.pop().purifier == str(tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").write_bytes(b"y")
    result = run("serve")
    assert bool(served) == starts
    if not starts:
        assert result.exit_code == 2
        assert "sha256" in result.output


@pytest.fixture
def served(monkeypatch):
    served = []
    monkeypatch.setattr("codefend.service.server.serve", served.append)
    monkeypatch.setattr(
        "codefend.service.logs.configure_logs", lambda _: None
    )  # it would outlive the test
    return served


@pytest.mark.parametrize("name", ["PURIFIER", "DETECTOR", "MLLM"])
@pytest.mark.parametrize("damage", ["no manifest", "not listed"])
def test_shipped_weights_are_not_served_without_their_manifest(
    monkeypatch, tmp_path, served, name, damage
):
    list_weights(tmp_path)
    monkeypatch.setattr("codefend.service.purify.model_version.WEIGHTS_DIRECTORY", tmp_path)
    monkeypatch.setenv(f"CODEFEND_{name}", str(tmp_path / "net"))
    assert run("serve").exit_code == 0
    served.clear()
    if damage == "no manifest":
        (tmp_path / "manifest.json").unlink()
    else:
        manifest.write_manifest([], tmp_path)
    result = run("serve")
    assert (served, result.exit_code) == ([], 2)
    assert "manifest.json" in result.output


@pytest.mark.parametrize("name", ["PURIFIER", "PURIFIER_ADAPTERS", "DETECTOR", "MLLM"])
@pytest.mark.parametrize("path", ["/nowhere", "./nowhere", "~/nowhere", "work/own/weights"])
def test_a_path_that_leads_nowhere_is_said_before_anything_is_loaded(
    monkeypatch, served, name, path
):
    monkeypatch.setenv(f"CODEFEND_{name}", path)
    result = run("serve")
    assert (served, result.exit_code) == ([], 2)
    assert f"{path} is no directory" in result.output


def test_weights_of_ones_own_may_have_no_manifest_and_the_log_says_so(
    monkeypatch, tmp_path, served, caplog
):
    list_weights(tmp_path)
    (tmp_path / "manifest.json").unlink()
    monkeypatch.setenv("CODEFEND_PURIFIER", str(tmp_path / "net"))
    assert run("serve").exit_code == 0
    assert len(served) == 1
    (record,) = (record for record in caplog.records if "no manifest" in record.message)
    assert record.fields["weights"] == str(tmp_path / "net")


def test_prompts_that_cannot_be_read_end_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("CODEFEND_PROMPTS", str(tmp_path / "nowhere.json"))
    result = run("serve")
    assert result.exit_code == 2
    assert "nowhere.json" in result.output


def test_config_shows_what_holds_for_each_key_and_no_key(tmp_path, monkeypatch):
    file = tmp_path / "keys.toml"
    file.write_text(
        '[[keys]]\nname = "ann"\nkey = "topsecret"\n'
        'disclose = "minimal"\nendpoints = ["/metrics"]\n'
    )
    monkeypatch.setenv("CODEFEND_API_KEYS_FILE", str(file))
    monkeypatch.setenv("CODEFEND_MAX_REQUESTS_PER_MINUTE", "7")
    shown = run("config").output
    (line,) = (line for line in shown.splitlines() if line.startswith("# key ann: "))
    for part in ("mode=enforce", "disclose=minimal", "endpoints=/metrics", "_per_minute=7"):
        assert part in line
    assert "topsecret" not in shown


@pytest.mark.parametrize("upstream", ["", "http://models:8000/v1"])
def test_without_torch_the_embedded_model_is_refused_clearly(monkeypatch, upstream):
    served = []
    monkeypatch.setattr("codefend.service.devices.has_torch", lambda: False)
    monkeypatch.setattr("codefend.service.server.serve", served.append)
    monkeypatch.setenv("CODEFEND_UPSTREAM_URL", upstream)
    result = run("serve")
    assert (result.exit_code, len(served)) == ((0, 1) if upstream else (2, 0))
    assert ("CODEFEND_UPSTREAM_URL" in result.output) == (not upstream)


def test_the_version_is_shown():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"codefend {installed_version()}\n")


def test_names_that_are_no_settings_are_said_and_stop_nothing(monkeypatch, served, caplog):
    monkeypatch.setenv("CODEFEND_UPSTREAM_URI", "a-secret")
    monkeypatch.setenv("CODEFEND_EMPTY", "")
    assert run("serve").exit_code == 0
    (record,) = (record for record in caplog.records if "no setting" in record.message)
    assert record.fields == {
        "variable": "CODEFEND_UPSTREAM_URI",
        "nearest_setting": "CODEFEND_UPSTREAM_URL",
    }
    shown = run("config").output
    assert "# CODEFEND_UPSTREAM_URI is no setting; did you mean CODEFEND_UPSTREAM_URL?" in shown
    assert "a-secret" not in shown
    assert len(served) == 1
