"""Which engine is taken, and what becomes of it where that one cannot run."""

import logging

import numpy as np
import pytest
import torch

from codefend.models.purifier.network import build_network
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.service.devices import Backend
from codefend.service.purify import backends, torch_engine
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
