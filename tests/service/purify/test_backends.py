"""Which engine is taken, and what becomes of it where that one cannot run."""

import logging

import numpy as np
import pytest
import torch

from codefend.models.purifier.eight_bit import eight_bit, measured_ranges
from codefend.models.purifier.graph import PurifierGraph
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.network import build_network
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.ranges import read_ranges, write_ranges
from codefend.service.devices import Backend, CpuDtype
from codefend.service.purify import backends, openvino_engine, torch_engine
from codefend.service.purify.backends import load_engine
from codefend.service.purify.engine import EngineOptions, GraphLimits
from codefend.service.settings import Settings
from tests.installed import needs_openvino


@pytest.fixture(scope="module")
def purifier(tmp_path_factory):
    directory = tmp_path_factory.mktemp("purifier")
    PurificationPipeline.tiny(0).save_pretrained(directory)
    return str(directory)


def backend_of(options):
    return load_engine(options).facts.backend


@needs_openvino
def test_auto_is_openvino_on_a_cpu(purifier):
    assert backend_of(EngineOptions(purifier, "cpu", 1)) == "openvino"


def test_auto_is_eager_where_openvino_is_not_installed(purifier, monkeypatch):
    monkeypatch.setattr(backends, "has_openvino", lambda: False)
    assert backend_of(EngineOptions(purifier, "cpu", 1)) == "eager"


def test_eager_is_eager(purifier):
    assert backend_of(EngineOptions(purifier, "cpu", 1, backend=Backend.EAGER)) == "eager"


def deep_purifier(directory):
    """Sides have to be multiples of 128: buckets are multiples of 64."""
    network = build_network(widths=(16,) * 7, num_layers=1)
    PurificationPipeline(network, name="deep").save_pretrained(directory)
    return str(directory)


@needs_openvino
def test_what_openvino_cannot_run_is_torchs_under_auto_alone(tmp_path, caplog):
    source = deep_purifier(tmp_path)
    with caplog.at_level(logging.WARNING):
        engine = load_engine(EngineOptions(source, "cpu", 1))
    assert engine.facts.backend == "eager"
    assert "multiples of 128" in caplog.text
    images = np.zeros((1, 64, 64, 3), np.uint8)
    assert engine.purify(images).shape == images.shape
    with pytest.raises(ValueError, match="multiples of 128"):
        load_engine(EngineOptions(source, "cpu", 1, backend=Backend.OPENVINO))


def test_weights_that_are_not_there_are_an_error_of_their_own(tmp_path):
    with pytest.raises(OSError, match="absent"):
        load_engine(EngineOptions(str(tmp_path / "absent"), "cpu", 1))


@needs_openvino
@pytest.mark.parametrize("accelerated", [False, True])
def test_auto_leaves_gpus_to_torch(monkeypatch, accelerated):
    monkeypatch.setattr(backends, "has_accelerator", lambda: accelerated)
    assert backends._suits_openvino(EngineOptions("x", "auto")) is not accelerated
    assert not backends._suits_openvino(EngineOptions("x", "cuda:0"))
    assert backends._suits_openvino(EngineOptions("x", "cpu"))


@pytest.mark.parametrize(
    ("backend", "device", "expected"),
    [
        (Backend.AUTO, "cuda:0", Backend.GRAPHS),
        (Backend.GRAPHS, "cuda:0", Backend.GRAPHS),
        (Backend.EAGER, "cuda:0", Backend.EAGER),
        (Backend.AUTO, "cpu", Backend.EAGER),
        (Backend.EAGER, "cpu", Backend.EAGER),
    ],
)
def test_torch_captures_graphs_on_gpus_unless_told_otherwise(backend, device, expected):
    options = EngineOptions("x", device, backend=backend)
    assert torch_engine._backend(options, torch.device(device)) is expected


@pytest.mark.parametrize(
    ("named", "device"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_a_device_is_one_of_them(named, device):
    assert str(torch_engine._device(EngineOptions("x", named))) == device


def test_graphs_need_a_gpu(purifier):
    with pytest.raises(RuntimeError, match="needs a GPU that torch can use, not cpu"):
        load_engine(EngineOptions(purifier, "cpu", 1, backend=Backend.GRAPHS))


def test_the_settings_say_what_is_captured():
    settings = Settings(max_batch=3, max_batch_pixels=10_000, gpu_graph_memory=0.5)
    assert EngineOptions.of(settings, "auto").graphs == GraphLimits(3, 10_000, 0.5)


def test_the_facts_say_the_precision(purifier):
    """Half precision is for GPUs: a CPU computes in single precision."""
    options = EngineOptions(purifier, "cpu", 1, backend=Backend.EAGER)
    assert load_engine(options).facts.details == {"dtype": "float32"}


def with_ranges(directory):
    pipeline = PurificationPipeline.tiny(0)
    pipeline.save_pretrained(directory)
    picture = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    write_ranges(directory, measured_ranges(pipeline, [picture], torch.Generator()))
    return str(directory)


def dtype_of(source, dtype=CpuDtype.AUTO):
    return load_engine(EngineOptions(source, "cpu", 1, cpu_dtype=dtype)).facts.details["dtype"]


@needs_openvino
@pytest.mark.parametrize("has_products", [False, True])
def test_auto_is_int8_where_the_processor_multiplies_it_and_ranges_were_measured(
    tmp_path, purifier, monkeypatch, has_products
):
    monkeypatch.setattr(openvino_engine, "has_int8_products", lambda: has_products)
    source = with_ranges(tmp_path)
    assert dtype_of(source) == ("int8" if has_products else "float32")
    assert dtype_of(source, CpuDtype.FLOAT32) == "float32"
    assert dtype_of(source, CpuDtype.INT8) == "int8"
    assert dtype_of(purifier) == "float32"


@needs_openvino
def test_int8_without_ranges_is_refused_with_what_to_do(purifier):
    with pytest.raises(ValueError, match="codefend-lab train ranges"):
        dtype_of(purifier, CpuDtype.INT8)


@needs_openvino
def test_ranges_of_other_weights_are_left_aside_unless_they_are_asked_for(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(openvino_engine, "has_int8_products", lambda: True)
    source = with_ranges(tmp_path)
    PurificationPipeline.tiny(1).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert dtype_of(source) == "float32"
    assert "of other weights" in caplog.text
    with pytest.raises(ValueError, match="of other weights"):
        dtype_of(source, CpuDtype.INT8)


@needs_openvino
def test_in_whole_numbers_it_purifies_as_torch_emulates_it(tmp_path):
    source = with_ranges(tmp_path)
    engine = load_engine(EngineOptions(source, "cpu", 1, cpu_dtype=CpuDtype.INT8))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    found, _ = engine.runner.purify(pixels, 5)
    noise = np.random.Generator(np.random.SFC64(5)).standard_normal((1, 2, 3, 64, 64), np.float32)
    graph = PurifierGraph(eight_bit(load_purifier(source), read_ranges(tmp_path)))
    emulated, _ = graph(torch.from_numpy(pixels), torch.from_numpy(noise))
    distance = np.abs(found.astype(int) - emulated.numpy())
    assert distance.mean() < 0.1
    assert distance.max() <= 2


def test_without_torch_openvino_says_itself_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "has_torch", lambda: False)
    monkeypatch.setattr("codefend.models.converted.find_spec", lambda _: None)
    folder = tmp_path / "purifier"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(RuntimeError, match="codefend prepare"):
        load_engine(EngineOptions(str(folder), "cpu", 1))
