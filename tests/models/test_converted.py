import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch

from codefend.models import converted
from codefend.models.converted import Compiled, Converted, load_converted
from codefend.models.manifest import describe_weights, verify_weights
from tests.installed import needs_openvino

pytestmark = needs_openvino

# Whatever asks for the network, here or in a process that is forked for it, is refused and leaves a
# mark.
WATCHED = """
import os, sys, time
def refuse(event, _):
    if event in {"socket.getaddrinfo", "socket.connect", "socket.sendto"}:
        os.close(os.open("asked", os.O_CREAT | os.O_WRONLY))
        raise OSError("no network here")
sys.addaudithook(refuse)
STATEMENT
ends = time.monotonic() + WAIT_S
while time.monotonic() < ends and not os.path.exists("asked"):
    time.sleep(0.05)
os._exit(0)
"""


class Doubling(torch.nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3, 3), factor))

    def forward(self, images):
        return images @ self.weight


class Factory:
    """Converts, and counts how often."""

    def __init__(self, factor=2.0):
        self.num_calls = 0
        self.factor = factor

    def __call__(self):
        self.num_calls += 1
        example = (torch.zeros(2, 3),)
        return converted.converted(Doubling(self.factor), example, {"factor": self.factor})


def result(found):
    return Compiled(found.network)(np.ones((5, 3), np.float32))[0]


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "net.safetensors").write_bytes(b"1234")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def described(entry):
    return json.loads((entry / "description.json").read_text())


def entries(folder):
    return sorted((folder / ".openvino").iterdir())


def test_it_is_converted_once_and_kept_beside_the_weights(weights, cache):
    factory = Factory()
    first, second = load_converted(weights, factory), load_converted(weights, factory)
    assert factory.num_calls == 1
    assert (result(first) == 6).all()
    assert (result(second) == 6).all()
    assert second.facts == {"factor": 2.0}
    assert len(entries(weights)) == 1
    assert not cache.exists()


@pytest.mark.parametrize("changed", ["weights", "package", "code"])
def test_what_is_stale_is_made_anew_and_takes_the_others_place(
    weights, changed, monkeypatch, tmp_path
):
    load_converted(weights, Factory())
    (before,) = entries(weights)
    versions = described(before)["made_with"]
    if changed == "weights":
        (weights / "net.safetensors").write_bytes(b"5678")
    elif changed == "package":
        monkeypatch.setattr(converted, "version", lambda name: version(name) + ".1")
    else:
        code = tmp_path / "models"
        code.mkdir()
        (code / "denoiser.py").write_text("# as it was not")
        monkeypatch.setattr(converted, "__file__", str(code / "converted.py"))
    factory = Factory(3.0)
    assert (result(load_converted(weights, factory)) == 9).all()
    assert factory.num_calls == 1
    (after,) = entries(weights)
    assert (after == before) == (changed == "package")
    assert (described(after)["made_with"] != versions) == (changed == "package")


def test_where_a_package_is_missing_what_was_made_with_it_serves(weights, monkeypatch):
    def version_without_torch(name):
        if name != "openvino":
            raise PackageNotFoundError(name)
        return version(name)

    load_converted(weights, Factory())
    monkeypatch.setattr(converted, "version", version_without_torch)
    factory = Factory(3.0)
    assert (result(load_converted(weights, factory)) == 6).all()
    assert factory.num_calls == 0


def test_without_torch_what_was_never_converted_says_where_it_can_be(weights, monkeypatch):
    monkeypatch.setattr(converted, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="codefend prepare"):
        load_converted(weights, Factory())


def spoil(entry, how):
    network = entry / "network.bin"
    if how == "flipped":
        content = bytearray(network.read_bytes())
        content[0] ^= 1
        network.write_bytes(content)
    elif how == "cut":
        network.write_bytes(network.read_bytes()[:-1])
    elif how == "missing":
        network.unlink()
    elif how == "nonsense":
        (entry / "description.json").write_text("[1")
    elif how == "other shape":
        (entry / "description.json").write_text("[]")
    else:
        xml = entry / "network.xml"
        xml.write_text("<net/>")
        changed = described(entry) | {"sha256": converted._digests(entry)}
        (entry / "description.json").write_text(json.dumps(changed))


@pytest.mark.parametrize(
    "how", ["flipped", "cut", "missing", "nonsense", "other shape", "no network"]
)
def test_what_is_damaged_is_made_anew(weights, how, caplog):
    load_converted(weights, Factory())
    (entry,) = entries(weights)
    spoil(entry, how)
    factory = Factory(3.0)
    assert (result(load_converted(weights, factory)) == 9).all()
    assert factory.num_calls == 1
    assert "damaged" in caplog.text
    assert (result(load_converted(weights, factory)) == 9).all()
    assert factory.num_calls == 1


def test_where_the_folder_cannot_be_written_it_is_the_cache(weights, cache):
    (weights / ".openvino").write_text("in the way, for root as well")
    factory = Factory()
    for _ in range(2):
        assert (result(load_converted(weights, factory)) == 6).all()
    assert factory.num_calls == 1
    assert list(cache.rglob("network.xml"))


def test_where_nothing_can_be_written_it_is_converted_every_time(
    weights, monkeypatch, tmp_path, caplog
):
    (weights / ".openvino").write_text("in the way")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    factory = Factory()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert (result(load_converted(weights, factory)) == 6).all()
    assert factory.num_calls == 2
    assert "cannot be kept" in caplog.text


def test_a_user_without_a_home_is_served(weights, monkeypatch):
    (weights / ".openvino").write_text("in the way")
    monkeypatch.delenv("XDG_CACHE_HOME")

    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert (result(load_converted(weights, Factory())) == 6).all()


@pytest.mark.parametrize("source", [None, "somebody/something"])
def test_nothing_is_kept_of_what_has_no_folder(source, cache):
    factory = Factory()
    for _ in range(2):
        load_converted(source, factory)
    assert factory.num_calls == 2
    assert not cache.exists()


def test_what_was_converted_is_no_foreign_file_of_the_weights(weights):
    entry = describe_weights(
        "weights", licence="", command="", figures={}, directory=weights.parent
    )
    load_converted(weights, Factory())
    assert list(verify_weights(entry, weights.parent)) == []
    copy = shutil.copytree(weights, weights.parent / "copy")
    factory = Factory()
    load_converted(copy, factory)
    assert factory.num_calls == 0, "the same weights elsewhere bring what was made of them along"


def test_a_lack_of_memory_leaves_something_that_works(weights, monkeypatch):
    compiled = Compiled(load_converted(weights, Factory()).network)
    broken = compiled._request

    class Lacking:
        def infer(self, *_, **__):
            raise RuntimeError("Check 'ptr' failed: Failed to allocate 100663296 bytes of memory")

    compiled._request = Lacking()
    with pytest.raises(MemoryError, match="Failed to allocate"):
        compiled(np.ones((5, 3), np.float32))
    assert (compiled(np.ones((5, 3), np.float32))[0] == 6).all()
    assert compiled._request is not broken, "what ran out of memory is not used again"


def test_arguments_need_not_be_contiguous(weights):
    compiled = Compiled(load_converted(weights, Factory()).network)
    values = np.arange(30, dtype=np.float32).reshape(3, 10)
    strided = values.T[::2]
    assert np.allclose(compiled(strided)[0], strided @ np.full((3, 3), 2, np.float32))


def test_it_is_single_precision_whatever_the_processor_prefers(weights):
    compiled = Compiled(load_converted(weights, Factory()).network, 1)
    model = compiled._request.get_compiled_model()
    assert model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert model.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.slow
def test_nothing_is_reported_to_anybody(tmp_path):
    def asks(statement, wait_s):
        home = tmp_path / str(wait_s)
        home.mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": os.getcwd()}
        code = WATCHED.replace("STATEMENT", statement).replace("WAIT_S", str(wait_s))
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=home, check=True)
        return (home / "asked").exists(), (home / "intel").exists()

    assert asks("import openvino", 60) == (True, True), "by itself it would: this test can fail"
    ours = "from codefend.models.converted import _openvino; _openvino().convert_model"
    assert asks(ours, 5) == (False, False)


@pytest.mark.slow
def test_processes_that_convert_at_once_find_the_same(weights):
    code = (
        "from tests.models.test_converted import Factory, result\n"
        "from codefend.models.converted import load_converted\n"
        f"print(result(load_converted({str(weights)!r}, Factory()))[0, 0])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)
    ]
    told = [process.communicate()[0].split()[-1] for process in processes]
    assert told == [b"6.0"] * 3
    assert len(entries(weights)) == 1


def test_facts_are_json(weights):
    network = Factory()().network
    with pytest.raises(TypeError):
        load_converted(weights, lambda: Converted(network, {"x": object()}))
    assert not list((weights / ".openvino").iterdir())


def test_several_networks_of_the_same_weights_are_kept_side_by_side(weights):
    doubling, tripling = Factory(2.0), Factory(3.0)
    for _ in range(2):
        assert (result(load_converted(weights, doubling)) == 6).all()
        assert (result(load_converted(weights, tripling, "int8")) == 9).all()
    assert (doubling.num_calls, tripling.num_calls) == (1, 1)
    (weights / "net.safetensors").write_bytes(b"5678")
    load_converted(weights, tripling, "int8")
    assert [entry.name.split("-")[0] for entry in entries(weights)] == ["float32", "int8"]
    assert tripling.num_calls == 2
