"""The real engine around a tiny random network."""

import numpy as np
import pytest
import torch

from models.detector.calibration import clean_quantiles
from models.detector.network import SuspicionDetector
from models.purifier.pipeline import PurificationPipeline
from models.quantise import dequantise
from service.purify.engine import EngineOptions, OutOfMemory, find_engine_loader
from service.purify.torch_engine import load_engine
from tests.service.pictures import picture


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("purifier")
    PurificationPipeline.tiny(0).save_pretrained(directory)
    return load_engine(EngineOptions(str(directory), "cpu", cpu_threads=1))


def test_facts_are_the_pipelines(engine):
    facts = engine.facts
    assert (facts.name, facts.device) == ("tiny", "cpu")
    assert facts.steps >= 1
    assert facts.noise_level > 0


def test_shapes_and_fresh_noise(engine):
    images = np.stack([picture(64, 128, seed) for seed in range(3)])
    first, second = engine.purify(images), engine.purify(images)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second), "noise must be fresh for every purification"


def test_a_fresh_process_starts_with_fresh_noise(engine):
    """Torch seeds every process alike; the engine must not."""
    images = picture(64, 64)[np.newaxis]
    torch.manual_seed(0)
    first = engine.purify(images)
    torch.manual_seed(0)
    assert not np.array_equal(first, engine.purify(images))


def test_without_a_detector_nothing_is_suspected(engine):
    pixels = picture(40, 50)
    assert engine.suspect(pixels, pixels) is None


def test_suspicion_is_what_the_detector_and_its_calibration_say(tmp_path):
    detector = SuspicionDetector.tiny()
    upload, purified = picture(41, 50), picture(41, 50, seed=1)
    scores = [
        detector(*(dequantise(torch.tensor(pixels[np.newaxis])) for pixels in pair)).item()
        for pair in ((upload, purified), (upload, upload))
    ]
    low, high = min(scores) - 1, max(scores) + 1
    detector.register_to_config(clean_quantiles=clean_quantiles(np.linspace(low, high, 1000)))
    detector.save_pretrained(tmp_path / "detector")
    PurificationPipeline.tiny(0).save_pretrained(tmp_path / "purifier")
    options = EngineOptions(str(tmp_path / "purifier"), "cpu", 1, str(tmp_path / "detector"))
    engine = load_engine(options)
    suspicions = [engine.suspect(upload, other) for other in (purified, upload)]
    assert suspicions == pytest.approx([(s - low) / (high - low) for s in scores], abs=1e-3)


def test_a_detector_without_calibration_is_no_detector(tmp_path):
    SuspicionDetector.tiny().save_pretrained(tmp_path / "detector")
    PurificationPipeline.tiny(0).save_pretrained(tmp_path / "purifier")
    options = EngineOptions(str(tmp_path / "purifier"), "cpu", 1, str(tmp_path / "detector"))
    with pytest.raises(ValueError, match="not calibrated"):
        load_engine(options)


def test_a_lack_of_memory_is_told_from_other_failures(engine, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    images = picture(64, 64)[np.newaxis]
    with monkeypatch.context() as patch:
        patch.setattr(engine._pipeline, "purify", fail)
        with pytest.raises(OutOfMemory, match="Tried to allocate") as caught:
            engine.purify(images)
        assert caught.value.__context__ is None, "nothing holds the batch that did not fit"
    assert engine.purify(images).shape == images.shape


@pytest.mark.parametrize("path", ["nonsense", "service.nothing:x", "service.purify.engine:x"])
def test_unknown_engines(path):
    with pytest.raises(ValueError, match="engine"):
        find_engine_loader(path)
