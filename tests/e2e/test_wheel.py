"""The wheel: what is in it, and that it serves where there is no checkout."""

import sys
import zipfile
from pathlib import PurePosixPath

import pytest

from codefend.models.manifest import LABORATORY_WEIGHTS, WEIGHTS_DIRECTORY, read_manifest
from tests.wheel import ask_installed, build_wheel

LARGEST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"), "--no-build-isolation")


def test_it_holds_one_package_and_the_weights_that_are_served(wheel):
    with zipfile.ZipFile(wheel) as archive:
        paths = [PurePosixPath(name) for name in archive.namelist()]
    assert {path.parts[0].partition("-")[0] for path in paths} == {"codefend"}
    weights = {path.parts[3] for path in paths if path.parts[1:3] == ("models", "weights")}
    listed = {entry.name for entry in read_manifest()}
    assert weights == listed - LABORATORY_WEIGHTS | {"manifest.json"}
    assert wheel.stat().st_size < LARGEST_BYTES
    files = {str(path) for path in paths}
    for name in ("purifier", "mllm", "detector"):
        for file in (WEIGHTS_DIRECTORY / name).rglob("*.safetensors"):
            assert f"codefend/models/weights/{file.relative_to(WEIGHTS_DIRECTORY)}" in files


def test_it_serves_where_there_is_no_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    # The packages that it needs are this environment's; codefend itself is found first.
    answer, _ = ask_installed(sys.executable, tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    assert "banana" in answer["answer"]
    assert answer["defense"]["purifier"]["name"] == "purifier"
    assert (tmp_path / "installed/codefend/service/__pycache__").is_dir(), "another one was served"
