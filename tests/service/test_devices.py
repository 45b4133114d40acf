"""What a machine has, and what may be asked of it."""

import importlib.util
import sys

import pytest
import torch
from pydantic import ValidationError

from codefend.service.devices import (
    Backend,
    CpuDtype,
    check_backend,
    has_accelerator,
    has_int8_products,
    resolve_devices,
)
from codefend.service.settings import Settings
from tests.installed import needs_openvino


@pytest.fixture
def without_openvino(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else real(name)
    )


@pytest.mark.parametrize(
    ("nodes", "devices"),
    [
        ([], ["auto"]),
        (["nvidia0", "nvidiactl"], ["auto"]),
        (["nvidia0", "nvidia1", "nvidia-uvm"], ["cuda:0", "cuda:1"]),
    ],
)
def test_auto_takes_every_gpu(tmp_path, nodes, devices):
    for node in nodes:
        (tmp_path / node).touch()
    assert resolve_devices(("auto",), device_directory=tmp_path) == devices
    assert resolve_devices(("cpu", "cuda:1"), device_directory=tmp_path) == ["cpu", "cuda:1"]


@pytest.mark.parametrize(
    ("nodes", "found", "expected"),
    [
        ([], True, False),
        (["nvidiactl", "null"], True, False),
        (["nvidia0"], True, True),
        (["nvidia0"], False, False),
        (["kfd"], True, True),
        (["dxg"], True, True),
    ],
)
def test_torch_is_asked_only_where_there_may_be_a_gpu(
    tmp_path, monkeypatch, nodes, found, expected
):
    for node in nodes:
        (tmp_path / node).touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    assert has_accelerator(tmp_path) is expected
    if not nodes:
        monkeypatch.setitem(sys.modules, "torch", None)
        assert not has_accelerator(tmp_path)


def test_openvino_that_is_not_installed_is_refused_with_what_installs_it(without_openvino):
    with pytest.raises(ValidationError, match=r"pip install 'codefend\[openvino\]'"):
        Settings(backend="openvino")
    assert Settings(backend="auto").backend is Backend.AUTO


@needs_openvino
def test_openvino_on_a_gpu_is_refused():
    with pytest.raises(ValidationError, match="CODEFEND_DEVICES=cpu"):
        Settings(backend="openvino", devices="cuda:0")
    assert Settings(backend="openvino", devices="cpu,cpu").devices == ("cpu", "cpu")


def test_openvino_leaves_the_gpus_of_a_machine_alone(tmp_path):
    for index in range(2):
        (tmp_path / f"nvidia{index}").touch()
    assert resolve_devices(("auto",), Backend.OPENVINO, tmp_path) == ["cpu"]
    assert resolve_devices(("auto",), Backend.AUTO, tmp_path) == ["cuda:0", "cuda:1"]


def test_graphs_are_for_gpus(tmp_path):
    with pytest.raises(ValueError, match="runs on GPUs: set CODEFEND_DEVICES"):
        check_backend(Backend.GRAPHS, ("cuda:0", "cpu"), tmp_path)
    with pytest.raises(ValueError, match="shows none: set auto"):
        check_backend(Backend.GRAPHS, ("auto",), tmp_path)
    (tmp_path / "nvidia0").touch()
    check_backend(Backend.GRAPHS, ("auto",), tmp_path)
    check_backend(Backend.GRAPHS, ("cuda:0", "cuda:1"), tmp_path)


@pytest.mark.parametrize("share", ["-0.1", "0.95"])
def test_graphs_take_a_share_of_a_gpus_memory(share):
    with pytest.raises(ValidationError, match="gpu_graph_memory"):
        Settings(gpu_graph_memory=share)


def test_no_precision_is_invented():
    with pytest.raises(ValidationError, match="gpu_dtype"):
        Settings(gpu_dtype="float8")


def test_int8_is_openvinos(without_openvino):
    with pytest.raises(ValidationError, match="CODEFEND_CPU_DTYPE=int8 needs OpenVINO"):
        Settings(cpu_dtype="int8")
    assert Settings(cpu_dtype="auto").cpu_dtype is CpuDtype.AUTO


@needs_openvino
def test_int8_is_not_torchs():
    with pytest.raises(ValidationError, match="CODEFEND_CPU_DTYPE=int8 needs OpenVINO"):
        Settings(cpu_dtype="int8", backend="eager")
    assert Settings(cpu_dtype="int8").cpu_dtype is CpuDtype.INT8


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["fpu avx512_vnni", "fpu avx512_vnni"], True),
        (["fpu avx_vnni"], True),
        (["fpu avx512_vnni", "fpu avx2"], False),
        (["fpu avx2 avx512f"], False),
        ([], False),
    ],
)
def test_int8_is_worth_it_where_every_processor_multiplies_it(tmp_path, flags, expected):
    listed = "".join(f"processor\t: 0\nflags\t\t: {each}\n\n" for each in flags)
    (tmp_path / "cpuinfo").write_text(listed)
    assert has_int8_products(tmp_path / "cpuinfo") is expected
    assert not has_int8_products(tmp_path / "absent")
