"""Builds the wheel and asks a service that it alone was installed for: `python -m tests.wheel try`.

An empty environment, an empty home, no checkout beside it: what a stranger has after `pip install`.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.service.running import wait_until_ready

ROOT = Path(__file__).parents[1]
ROOMS = ("codefend", "service", "models", "lab", "gallery")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", *ROOMS)
START_TIMEOUT_S = 400


def build_wheel(into, *options):
    """Builds it from a copy: what an earlier build left in the tree would go into this one."""
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            source, target = ROOT / name, Path(folder) / name
            if source.is_dir():
                hidden = shutil.ignore_patterns("__pycache__", ".openvino")
                shutil.copytree(source, target, symlinks=True, ignore=hidden)
            else:
                shutil.copy(source, target)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *options]
        subprocess.run([*command, "--wheel-dir", into, folder], check=True)
    return max(Path(into).glob("codefend-*.whl"), key=lambda path: path.stat().st_mtime)


def ask_installed(python, folder, **variables):
    """Starts `codefend serve` and asks about the README's image.

    Args:
        python: Of the environment that the wheel is in.
        folder: Where it is started: nothing of the checkout is there.
        variables: Of the environment, beside the path.

    Returns:
        The answer of `/v1/vqa`, and the seconds from the command to it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "CODEFEND_PORT": str(port)}
    began_s = time.monotonic()
    process = subprocess.Popen(
        [python, "-m", "codefend.service.cli", "serve"], cwd=folder, env=environment | variables
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, process, START_TIMEOUT_S)
            with (ROOT / "gallery/images/007-attacked.png").open("rb") as image:
                data = {"question": "what is in the image?"}
                answer = client.post("/v1/vqa", data=data, files={"file": image})
        return answer.raise_for_status().json(), time.monotonic() - began_s
    finally:
        process.terminate()
        process.wait()


@contextmanager
def empty_environment():
    """A home, and an environment with the wheel and what it needs, of the pinned versions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "home").mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv/bin/python"
        command = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        command += ["--constraint", ROOT / "constraints.txt", build_wheel(folder)]
        subprocess.run(command, check=True, env=os.environ | {"HOME": str(folder / "home")})
        yield folder


def try_it():
    """Prints the wheel's size, that of the environment it needs, and what it answers."""
    began_s = time.monotonic()
    with empty_environment() as folder:
        installed_s = time.monotonic() - began_s
        (wheel,) = folder.glob("codefend-*.whl")
        wheel_mb = wheel.stat().st_size / 1e6
        files = [path.lstat().st_size for path in (folder / "venv").rglob("*") if path.is_file()]
        answer, seconds = ask_installed(folder / "venv/bin/python", folder / "home")
    facts = {
        "wheel_mb": round(wheel_mb, 1),
        "environment_mb": round(sum(files) / 1e6),
        "install_s": round(installed_s),
        "start_and_answer_s": round(seconds),
        "answer": answer["answer"],
    }
    sys.stdout.write(json.dumps(facts, indent=2) + "\n")


def write_sbom(into):
    """Writes what the wheel needs, with versions and licences, as CycloneDX."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    target = Path(into, f"codefend-{version}.cdx.json")
    with empty_environment() as folder:
        command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
        command += ["--pyproject", ROOT / "pyproject.toml", "--output-file", target]
        subprocess.run([*command, folder / "venv/bin/python"], check=True)
    sys.stdout.write(f"{target}\n")


def main():
    """`build FOLDER`, `try`, or `sbom FOLDER`."""
    command, *folder = sys.argv[1:]
    for name in folder:
        Path(name).mkdir(exist_ok=True)
    {"build": build_wheel, "try": try_it, "sbom": write_sbom}[command](*folder)


if __name__ == "__main__":
    main()
