"""The real engine around a tiny random network."""

import numpy as np
import pytest

from models.purifier.adapters import AdapterSettings, attach_adapters, save_adapters
from models.purifier.latent import LatentPurificationPipeline
from models.purifier.pipeline import PurificationPipeline
from service.purify.engine import EngineOptions, find_engine_loader
from service.purify.torch_engine import load_engine
from service.settings import Settings
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
    import torch

    images = picture(64, 64)[np.newaxis]
    torch.manual_seed(0)
    first = engine.purify(images)
    torch.manual_seed(0)
    assert not np.array_equal(first, engine.purify(images))


@pytest.mark.parametrize("path", ["nonsense", "service.nothing:x", "service.purify.engine:x"])
def test_unknown_engines(path):
    with pytest.raises(ValueError, match="engine"):
        find_engine_loader(path)


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    """A base, adapters that change what it does, and how they are served."""
    directory = tmp_path_factory.mktemp("latent")
    pipeline = LatentPurificationPipeline.tiny()
    pipeline.save_pretrained(directory / "base")
    adapters = attach_adapters(pipeline.unet, rank=2)
    for name, parameter in adapters.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.5)
    save_adapters(
        adapters,
        directory / "adapters",
        base=str(directory / "base"),
        settings=AdapterSettings(noise_level=0.2, num_steps=2, name="tuned", version="9"),
        empty_prompt=pipeline.empty_prompt,
    )
    return directory


def test_a_latent_base_is_served_with_its_adapters(latent):
    base = load_engine(EngineOptions(str(latent / "base"), "cpu", 1))
    tuned = load_engine(EngineOptions(str(latent / "base"), "cpu", 1, str(latent / "adapters")))
    assert (base.facts.name, base.facts.noise_level) == ("tiny-latent", 0.1)
    facts = tuned.facts
    assert (facts.name, facts.version, facts.steps, facts.noise_level) == ("tuned", "9", 2, 0.2)
    images = np.stack([picture(64, 128, seed) for seed in range(2)])
    first = tuned.purify(images)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, tuned.purify(images)), "noise must be fresh"


def test_adapters_for_a_pixel_purifier_are_refused(latent, tmp_path):
    PurificationPipeline.tiny(0).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pixel"):
        load_engine(EngineOptions(str(tmp_path), "cpu", 1, str(latent / "adapters")))


def test_settings_reach_the_engine(latent, monkeypatch):
    """Both CODEFEND_PURIFIER settings, as the worker's options."""
    monkeypatch.setenv("CODEFEND_PURIFIER", str(latent / "base"))
    monkeypatch.setenv("CODEFEND_PURIFIER_ADAPTERS", str(latent / "adapters"))
    options = EngineOptions.of(Settings(), "cpu")
    assert load_engine(options).facts.name == "tuned"
