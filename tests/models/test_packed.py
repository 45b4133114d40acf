"""Weights in fewer bytes: what comes back, and what a damaged file says."""

import lzma
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from codefend.models.manifest import WEIGHTS_DIRECTORY, weights_sha256
from codefend.models.packed import pack, unpacked

RANDOM = np.random.default_rng(0)
TENSORS = {
    "matrix": RANDOM.normal(0, 0.02, (7, 12)).astype(np.float16),
    "kernel": RANDOM.normal(0, 3, (4, 3, 3, 3)).astype(np.float16),
    "bias": RANDOM.normal(0, 1, 9).astype(np.float16),
    "zeros": np.zeros((2, 5), np.float16),
    "positions": np.arange(6).reshape(1, 6),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "weights" / "net"
    (folder / "unet").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file(TENSORS, folder / "unet" / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_what_is_packed_exactly_comes_back_byte_for_byte(folder):
    before, sha256 = (folder / "unet" / "model.safetensors").read_bytes(), weights_sha256(folder)
    pack(folder)
    assert not list(folder.rglob("*.safetensors"))
    readable = unpacked(folder)
    assert (readable / "unet" / "model.safetensors").read_bytes() == before
    assert (readable / "config.json").read_text() == "{}"
    assert readable.name == folder.name
    assert weights_sha256(folder) == sha256


def test_eight_bits_keep_each_channel_to_half_a_step(folder):
    pack(folder, to_int8=True)
    after = load_file(unpacked(folder) / "unet" / "model.safetensors")
    assert after.keys() == TENSORS.keys()
    for name, before in TENSORS.items():
        assert after[name].dtype == before.dtype
        if name in {"bias", "positions", "zeros"}:
            assert np.array_equal(after[name], before)
            continue
        rows = before.astype(np.float32).reshape(len(before), -1)
        step = np.abs(rows).max(axis=1, keepdims=True) / 127
        error = np.abs(after[name].astype(np.float32).reshape(rows.shape) - rows)
        # Half a step of the integers, and half one of half precision.
        assert (error <= 0.5 * step + np.abs(rows) * 2**-11 + 1e-7).all()


def test_what_is_not_packed_is_read_where_it_is(folder, cache):
    assert unpacked(folder) == folder
    assert unpacked("somebody/something") == "somebody/something"
    assert not cache.exists()


def test_it_is_unpacked_once_and_anew_when_it_changes(folder):
    pack(folder)
    first = unpacked(folder)
    written_s = (first / "unet" / "model.safetensors").stat().st_mtime_ns
    assert unpacked(folder) == first
    assert (first / "unet" / "model.safetensors").stat().st_mtime_ns == written_s
    (folder / "config.json").write_text('{"a": 1}')
    second = unpacked(folder)
    assert second != first
    assert (second / "config.json").read_text() == '{"a": 1}'


def test_a_damaged_file_is_an_error_and_leaves_nothing(folder, cache):
    pack(folder)
    file = folder / "unet" / "model.safetensors.xz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(OSError, match=r"model\.safetensors\.xz is damaged"):
        unpacked(folder)
    assert not list(cache.rglob("*.safetensors"))


def test_a_packed_file_is_one_that_others_can_read(folder):
    before = (folder / "unet" / "model.safetensors").read_bytes()
    pack(folder)
    with lzma.open(folder / "unet" / "model.safetensors.xz") as opened:
        assert opened.read() == before


def test_a_plain_file_takes_the_place_of_a_packed_one(folder):
    pack(folder)
    after = {"matrix": np.ones((2, 2), np.float16)}
    save_file(after, folder / "unet" / "model.safetensors")
    assert unpacked(folder) == folder


@pytest.mark.slow
def test_processes_that_unpack_at_once_find_the_same(folder):
    pack(folder)
    code = f"from codefend.models.packed import unpacked; print(unpacked({str(folder)!r}))"
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) for _ in range(4)
    ]
    told = {process.communicate()[0] for process in processes}
    assert len(told) == 1
    assert all(process.returncode == 0 for process in processes)


def test_shipped_weights_unpack(cache):
    """What reports call the base and the surrogate are these very files."""
    assert weights_sha256(WEIGHTS_DIRECTORY / "base") == (
        "6c650a7cd793024e110a95ff8d0bd8fb801093b7d78a67f7573a156f6899c2eb"
    )
    assert (
        weights_sha256(WEIGHTS_DIRECTORY / "surrogate")
        == "774a0562f5275cd1b8b168c817d8a40b71cc062094cc73b3b4a0ad09de8aef73"
    )


def test_weights_that_an_installation_leaves_out_are_asked_for_from_a_checkout(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("codefend.models.packed._SHIPPED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"surrogate is not in this .* from a checkout"):
        unpacked(tmp_path / "surrogate")
    assert unpacked("owner/surrogate") == "owner/surrogate"
