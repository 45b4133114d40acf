"""The real engines around a tiny random network: what holds for one holds for the other."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from codefend.lab.baselines.defence import defend
from codefend.lab.baselines.named import defence_named
from codefend.models.detector.calibration import clean_quantiles
from codefend.models.detector.network import SuspicionDetector
from codefend.models.purifier.adapters import AdapterSettings, attach_adapters, save_adapters
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.strengths import STRENGTHS, Strength, levels_by_strength
from codefend.models.quantise import dequantise
from codefend.service.devices import Backend
from codefend.service.purify.backends import load_engine
from codefend.service.purify.engine import (
    DeviceOutOfMemory,
    EngineOptions,
    NetworkEngine,
    find_engine_loader,
)
from codefend.service.purify.stage import MOST_GREY_DISTANCE
from codefend.service.purify.worker import WorkerConfig, make_worker
from codefend.service.settings import Settings
from codefend.service.stages import EngineFacts
from tests.installed import needs_openvino
from tests.service.pictures import picture


@pytest.fixture(
    scope="module", params=[Backend.EAGER, pytest.param(Backend.OPENVINO, marks=needs_openvino)]
)
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def purifier(tmp_path_factory):
    directory = tmp_path_factory.mktemp("purifier")
    PurificationPipeline.tiny(0).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def engine(purifier, backend):
    return load_engine(EngineOptions(str(purifier), "cpu", cpu_threads=1, backend=backend))


def test_facts_are_the_pipelines(engine, backend):
    facts = engine.facts
    assert (facts.name, facts.device, facts.backend) == ("tiny", "cpu", backend)
    assert facts.steps >= 1
    assert facts.noise_level > 0


def test_shapes_and_fresh_noise(engine):
    images = np.stack([picture(64, 128, seed) for seed in range(3)])
    first, second = engine.purify(images), engine.purify(images)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second), "noise must be fresh for every purification"


def test_a_fresh_process_starts_with_fresh_noise(engine):
    """Torch seeds every process alike; the engines must not."""
    images = picture(64, 64)[np.newaxis]
    torch.manual_seed(0)
    np.random.seed(0)
    first = engine.purify(images)
    torch.manual_seed(0)
    np.random.seed(0)
    assert not np.array_equal(first, engine.purify(images))


def test_without_a_detector_nothing_is_suspected(engine):
    pixels = picture(40, 50)
    assert engine.suspect(pixels, pixels) is None


@pytest.mark.parametrize("size", [(41, 50), (64, 33), (1, 1)])
def test_suspicion_is_what_the_detector_and_its_calibration_say(tmp_path, purifier, backend, size):
    detector = SuspicionDetector.tiny()
    upload, purified = picture(*size), picture(*size, seed=1)
    scores = [
        detector(*(dequantise(torch.tensor(pixels[np.newaxis])) for pixels in pair)).item()
        for pair in ((upload, purified), (upload, upload))
    ]
    low, high = min(scores) - 1, max(scores) + 1
    detector.register_to_config(clean_quantiles=clean_quantiles(np.linspace(low, high, 1000)))
    detector.save_pretrained(tmp_path / "detector")
    options = EngineOptions(
        str(purifier), "cpu", 1, detector=str(tmp_path / "detector"), backend=backend
    )
    engine = load_engine(options)
    suspicions = [engine.suspect(upload, other) for other in (purified, upload)]
    assert suspicions == pytest.approx([(s - low) / (high - low) for s in scores], abs=1e-3)


def test_a_detector_without_calibration_is_no_detector(tmp_path, purifier, backend):
    SuspicionDetector.tiny().save_pretrained(tmp_path / "detector")
    options = EngineOptions(
        str(purifier), "cpu", 1, detector=str(tmp_path / "detector"), backend=backend
    )
    with pytest.raises(ValueError, match="not calibrated"):
        load_engine(options)


def test_what_is_no_picture_is_a_failure(tmp_path, backend):
    spoiled = PurificationPipeline.tiny(0)
    with torch.no_grad():
        spoiled.unet.conv_out.bias[0] = float("nan")
    spoiled.save_pretrained(tmp_path)
    engine = load_engine(EngineOptions(str(tmp_path), "cpu", 1, backend=backend))
    with pytest.raises(ArithmeticError):
        engine.purify(np.zeros((2, 64, 64, 3), np.uint8))


class RunnerThatNotes:
    """Adds one to every picture; its sum is no number from the pass `spoiled` on."""

    def __init__(self, spoiled=9):
        self.levels, self.seeds, self._spoiled = [], [], spoiled

    def purify(self, images, seed, levels=None):
        self.levels.append(levels)
        self.seeds.append(seed)
        return images + np.uint8(1), np.nan if len(self.levels) >= self._spoiled else 1.0


@pytest.mark.parametrize("own_steps", [1, 2])
@pytest.mark.parametrize("strength", list(Strength))
def test_a_strength_of_more_steps_runs_the_same_network_again(strength, own_steps):
    levels = levels_by_strength(0.08, own_steps)
    runner = RunnerThatNotes()
    facts = EngineFacts("counting", "1", own_steps, 0.08, "cpu", levels=levels)
    purified = NetworkEngine(runner, facts, None).purify(
        np.zeros((2, 64, 64, 3), np.uint8), strength
    )
    times = STRENGTHS[strength].times_steps
    assert (purified == times).all(), "each pass begins where the one before ended"
    assert [len(some) for some in runner.levels] == [own_steps] * times
    assert sum(runner.levels, ()) == levels[strength]
    assert len(set(runner.seeds)) == times, "fresh noise in every pass"


def test_every_pass_has_to_give_a_picture():
    facts = EngineFacts("spoiling", "1", 1, 0.08, "cpu", levels=levels_by_strength(0.08, 1))
    images = np.zeros((1, 64, 64, 3), np.uint8)
    for spoiled in (1, 2):
        engine = NetworkEngine(RunnerThatNotes(spoiled), facts, None)
        with pytest.raises(ArithmeticError):
            engine.purify(images, Strength.STRONG)


@pytest.mark.parametrize("strength", list(Strength))
def test_what_is_served_is_what_the_laboratory_attacks(purifier, backend, strength):
    """Over the noise: that passes begin with whole levels changes nothing that counts."""
    engine = load_engine(EngineOptions(str(purifier), "cpu", 1, backend=backend))
    pipeline = PurificationPipeline.from_pretrained(purifier)
    pipeline.set_progress_bar_config(disable=True)
    defence = defence_named(f"purifier:{strength}", {"purifier": (pipeline, "")})
    images = np.stack([picture(64, 64, seed=0)] * 64)
    served = engine.purify(images, strength).astype(float)
    attacked = np.stack(defend(defence, list(images), seed=3)).astype(float)
    apart = np.abs(served.mean(axis=0) - attacked.mean(axis=0)).mean()
    by_chance = np.abs(served[:32].mean(axis=0) - served[32:].mean(axis=0)).mean()
    assert apart < 1.5 * by_chance
    assert served.std(axis=0).mean() == pytest.approx(attacked.std(axis=0).mean(), rel=0.05)


def test_a_lack_of_memory_is_told_from_other_failures(purifier, monkeypatch):
    engine = load_engine(EngineOptions(str(purifier), "cpu", 1, backend=Backend.EAGER))

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    images = picture(64, 64)[np.newaxis]
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner.graph, "forward", fail)
        with pytest.raises(DeviceOutOfMemory, match="Tried to allocate") as caught:
            engine.purify(images)
        assert caught.value.__context__ is None, "nothing holds the batch that did not fit"
    assert engine.purify(images).shape == images.shape


@needs_openvino
def test_a_lack_of_memory_is_told_with_openvino_too(purifier, monkeypatch):
    engine = load_engine(EngineOptions(str(purifier), "cpu", 1, backend=Backend.OPENVINO))

    def fail(*_):
        raise MemoryError("Failed to allocate 100663296 bytes of memory")

    images = picture(64, 64)[np.newaxis]
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "_purify", fail)
        with pytest.raises(DeviceOutOfMemory, match="Failed to allocate"):
            engine.purify(images)
    assert engine.purify(images).shape == images.shape


@needs_openvino
@pytest.mark.slow
def test_a_second_start_with_openvino_needs_no_torch(purifier):
    code = (
        "import sys\nimport numpy as np\n"
        "from codefend.service.purify.backends import load_engine\n"
        "from codefend.service.purify.engine import EngineOptions\n"
        "engine = load_engine(EngineOptions(sys.argv[1], 'cpu', 1))\n"
        "engine.purify(np.zeros((1, 64, 64, 3), np.uint8))\n"
        "print(engine.facts.backend, sorted({'torch', 'diffusers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(purifier)]
    told = [subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2)]
    assert told[1].strip() == b"openvino []"


@pytest.mark.parametrize(
    "path", ["nonsense", "codefend.service.nothing:x", "codefend.service.purify.engine:x"]
)
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


def test_a_latent_base_is_served_with_its_adapters(latent, backend):
    source, adapters = str(latent / "base"), str(latent / "adapters")
    base = load_engine(EngineOptions(source, "cpu", 1, backend=backend))
    tuned = load_engine(EngineOptions(source, "cpu", 1, adapters, backend=backend))
    assert (base.facts.name, base.facts.noise_level) == ("tiny-latent", 0.1)
    facts = tuned.facts
    assert (facts.name, facts.version, facts.steps, facts.noise_level) == ("tuned", "9", 2, 0.2)
    images = np.stack([picture(64, 128, seed) for seed in range(2)])
    first = tuned.purify(images)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, tuned.purify(images)), "noise must be fresh"


def test_adapters_for_a_pixel_purifier_are_refused(latent, purifier, backend):
    adapters = str(latent / "adapters")
    with pytest.raises(ValueError, match="pixel"):
        load_engine(EngineOptions(str(purifier), "cpu", 1, adapters, backend=backend))


def test_settings_reach_the_engine(latent, monkeypatch):
    """Both CODEFEND_PURIFIER settings, as the worker's options."""
    monkeypatch.setenv("CODEFEND_PURIFIER", str(latent / "base"))
    monkeypatch.setenv("CODEFEND_PURIFIER_ADAPTERS", str(latent / "adapters"))
    options = EngineOptions.of(Settings(), "cpu")
    assert load_engine(options).facts.name == "tuned"


@pytest.mark.slow
def test_the_shipped_weights_pass_a_reloads_trial(backend):
    settings = Settings(backend=backend)
    options = EngineOptions.of(settings, "cpu")
    _, description = make_worker(WorkerConfig(settings.engine, options, settings.tiling))
    assert description["grey_distance"] < MOST_GREY_DISTANCE / 8
