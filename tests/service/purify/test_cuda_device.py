"""The order in which CUDA is asked, by a stand-in with torch's own signatures."""

from types import SimpleNamespace
from unittest.mock import MagicMock, create_autospec

import pytest
import torch

from codefend.service.purify import cuda
from codefend.service.purify.cuda import CudaDevice

DEVICE = torch.device("cuda:1")
NAMES = (
    "set_device",
    "graph_pool_handle",
    "mem_get_info",
    "reset_peak_memory_stats",
    "memory_allocated",
    "max_memory_allocated",
    "CUDAGraph",
    "graph",
    "empty_cache",
    "stream",
    "current_stream",
)


@pytest.fixture
def asked(monkeypatch):
    """All calls, in order; streams are the strings `captures` and `copies`."""
    stand_in = MagicMock()
    for name in NAMES:
        stand_in.attach_mock(create_autospec(getattr(torch.cuda, name)), name)
    stand_in.Stream.side_effect = [MagicMock(name="captures"), MagicMock(name="copies")]
    stand_in.mem_get_info.side_effect = lambda *_: (700, 1000)
    stand_in.memory_allocated.return_value = 30
    stand_in.max_memory_allocated.return_value = 75
    for name in ("graph", "stream"):
        getattr(stand_in, name).side_effect = lambda *_, **__: MagicMock()
    monkeypatch.setattr(cuda, "torch", SimpleNamespace(cuda=stand_in))
    return stand_in


def names_of(calls):
    return [name for name, *_ in calls.mock_calls if name in NAMES]


def test_it_is_the_processs_device(asked):
    assert CudaDevice(DEVICE).total_bytes == 1000
    asked.set_device.assert_called_once_with(DEVICE)


def test_a_warm_up_runs_aside_and_is_measured_once_algorithms_are_chosen(asked):
    device = CudaDevice(DEVICE)
    runs = []
    asked.reset_peak_memory_stats.side_effect = lambda *_: runs.append("reset")
    assert device.warm_up(lambda: runs.append("run")) == 45
    assert runs == ["run", "reset", "run", "run"]
    assert [call.args for call in asked.stream.call_args_list] == [(device._captures,)] * 3
    assert device._captures.synchronize.call_count == 3


def test_graphs_share_a_pool_and_are_captured_aside(asked):
    device = CudaDevice(DEVICE)
    asked.mem_get_info.side_effect = [(700, 1000), (640, 1000)]
    runs = []
    captured = device.capture(lambda: runs.append("run"))
    assert (runs, captured.num_bytes) == (["run"], 60)
    (call,) = asked.graph.call_args_list
    assert call.kwargs["pool"] is asked.graph_pool_handle.return_value
    assert call.kwargs["stream"] is device._captures
    names = names_of(asked)
    assert names.index("empty_cache") < names.index("graph")
    captured.replay()
    asked.CUDAGraph.return_value.replay.assert_called_once_with()


def test_copies_wait_for_what_they_copy(asked):
    device = CudaDevice(DEVICE)
    current = asked.current_stream.return_value
    source, target = MagicMock(), MagicMock()
    device.upload(target, source)
    target.copy_.assert_called_once_with(source, non_blocking=True)
    device.join()
    current.wait_stream.assert_called_once_with(device._copies)
    waited = []
    device._copies.wait_stream.side_effect = waited.append
    target.copy_.side_effect = lambda *_, **__: waited.append("copy")
    device._copies.synchronize.side_effect = lambda: waited.append("synchronize")
    device.download((target, source), (target, source))
    assert waited == [current, "copy", "copy", "synchronize"]
