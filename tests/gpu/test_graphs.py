"""The engine on a GPU: captured graphs beside eager runs of the same network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.graph import PurifierGraph
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.service.devices import Backend, GpuDtype
from codefend.service.purify.cuda import CudaDevice
from codefend.service.purify.engine import DeviceOutOfMemory, EngineOptions, GraphLimits
from codefend.service.purify.graph_runner import GraphRunner, GraphShape
from codefend.service.purify.torch_engine import load_engine
from codefend.service.purify.torch_runner import TorchRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
DEVICE = torch.device("cuda:0")
LIMITS = GraphLimits(8, 8 * 256 * 256, start_sides_px=(128, 256))


def pictures(num_images: int, height: int = 128, width: int = 128) -> np.ndarray:
    """Smooth random images, (B, H, W, 3) uint8."""
    coarse = torch.rand(num_images, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    levels = (smooth.clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().numpy()


def shipped() -> PurificationPipeline:
    return load_purifier(WEIGHTS_DIRECTORY / "purifier", dtype=torch.float16)


def latent() -> LatentPurificationPipeline:
    pipeline = LatentPurificationPipeline.tiny(1)
    pipeline.register_to_config(num_steps=2, noise_level=0.2)
    for part in (pipeline.unet, pipeline.vae, pipeline.empty_prompt):
        torch.nn.Module.to(part, torch.float16)
    return pipeline


def runner_of(make=shipped, limits: GraphLimits = LIMITS) -> GraphRunner:
    eager = TorchRunner(PurifierGraph(make()), DEVICE)
    return GraphRunner(eager, CudaDevice(DEVICE), limits)


def is_captured(runner: GraphRunner, *shape: int) -> bool:
    return runner._graphs.get(GraphShape(*shape)) is not None


@pytest.mark.parametrize("make", [shipped, latent])
@pytest.mark.parametrize("num_images", [1, 4])
def test_a_graph_is_the_eager_run_given_the_same_noise(make, num_images: int) -> None:
    runner = runner_of(make)
    assert is_captured(runner, num_images, 128, 128)
    images = pictures(num_images)
    for seed in (1, 2):
        replayed, total = runner.purify(images, seed)
        eager, _ = runner._eager.purify(images, seed)
        assert np.isfinite(total)
        assert np.abs(replayed.astype(int) - eager).max() <= 1


@pytest.mark.parametrize("make", [shipped, latent])
def test_two_replays_on_one_image_differ(make) -> None:
    runner = runner_of(make)
    images = pictures(1)
    first, second, again = (runner.purify(images, seed)[0] for seed in (1, 2, 1))
    assert (first != second).any()
    assert np.array_equal(first, again)


@pytest.mark.parametrize("backend", [Backend.AUTO, Backend.GRAPHS, Backend.EAGER])
@pytest.mark.parametrize("dtype", list(GpuDtype))
def test_the_engine_draws_fresh_noise_in_either_precision(
    backend: Backend, dtype: GpuDtype
) -> None:
    options = EngineOptions(
        str(WEIGHTS_DIRECTORY / "purifier"),
        "cuda:0",
        detector=str(WEIGHTS_DIRECTORY / "detector"),
        backend=backend,
        gpu_dtype=dtype,
        graphs=LIMITS,
    )
    engine = load_engine(options)
    expected = Backend.EAGER if backend is Backend.EAGER else Backend.GRAPHS
    assert (engine.facts.device, engine.facts.backend) == ("cuda:0", expected)
    assert engine.facts.details["dtype"] == dtype
    images = pictures(4)
    first, second = engine.purify(images).astype(int), engine.purify(images).astype(int)
    assert (first != second).any()
    assert abs(first - images).mean() < 8
    suspicion = engine.suspect(images[0], first[0].astype(np.uint8))
    assert suspicion is not None
    assert 0 <= suspicion <= 1


def test_half_precision_purifies_as_single_precision() -> None:
    images = pictures(2)
    found = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        purifier = load_purifier(WEIGHTS_DIRECTORY / "purifier", dtype=dtype)
        graph = PurifierGraph(purifier).to(DEVICE)
        noise = torch.zeros((1, *purifier.noise_shape(2, 128, 128)), dtype=dtype, device=DEVICE)
        found.append(graph(torch.from_numpy(images).to(DEVICE), noise)[0].int())
    assert (found[1] - found[0]).abs().max() <= 2
    assert (found[2] - found[0]).abs().float().mean() <= 1


def test_padding_never_alters_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of()
    images = pictures(5)
    runner.purify(pictures(6)[::-1], seed=3)
    after_others, total = runner.purify(images, seed=9)
    monkeypatch.setattr(torch.Tensor, "zero_", lambda self: self.fill_(255))
    beside_white, other_total = runner.purify(images, seed=9)
    assert np.array_equal(after_others, beside_white)
    assert total != other_total


def test_the_shapes_of_others_change_no_replay() -> None:
    """All graphs share their memory: each must leave it so that the others still hold."""
    runner = runner_of()
    images = pictures(3)
    before, _ = runner.purify(images, seed=1)
    for others in (pictures(8), pictures(2, 256, 256), pictures(1, 192, 64)):
        for _ in range(3):
            runner.purify(others, seed=0)
    assert is_captured(runner, 1, 192, 64)
    assert np.array_equal(runner.purify(images, seed=1)[0], before)


def test_what_is_not_captured_runs_eagerly() -> None:
    runner = runner_of(limits=replace(LIMITS, memory_share=0))
    assert not any(runner._graphs.values())
    images = pictures(3)
    assert np.array_equal(runner.purify(images, 4)[0], runner._eager.purify(images, 4)[0])
    too_large = pictures(1, 1024, 1024)
    assert runner.purify(too_large, 4)[0].shape == too_large.shape


def test_a_lack_of_memory_while_capturing_is_no_failure() -> None:
    _, total = torch.cuda.mem_get_info(DEVICE)
    torch.cuda.empty_cache()
    try:
        # What is left holds the weights and an eager run, and no batch of 64.
        allowed = torch.cuda.memory_allocated(DEVICE) + (512 << 20)
        torch.cuda.set_per_process_memory_fraction(allowed / total, DEVICE)
        runner = runner_of(
            limits=replace(LIMITS, max_images=64, max_pixels=64 * 256 * 256, memory_share=0.9)
        )
        assert None in runner._graphs.values()
        images = pictures(1)
        assert runner.purify(images, seed=0)[0].shape == images.shape
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)


def test_a_batch_that_does_not_fit_is_told_so_and_leaves_the_engine_whole() -> None:
    _, total = torch.cuda.mem_get_info(DEVICE)
    runner = runner_of()
    allowed = torch.cuda.memory_allocated(DEVICE) + (256 << 20)
    torch.cuda.set_per_process_memory_fraction(allowed / total, DEVICE)
    try:
        with pytest.raises(DeviceOutOfMemory):
            runner.purify(pictures(64, 512, 512), seed=0)
        assert runner.purify(pictures(2), seed=0)[0].shape == (2, 128, 128, 3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)


def test_copies_go_through_pinned_memory() -> None:
    runner = runner_of()
    views = runner._buffers.views(GraphShape(2, 128, 128))
    assert views.host_pixels.is_pinned()
    assert views.host_purified.is_pinned()
    assert runner._buffers.host_total.is_pinned()
    assert views.pixels.is_cuda


def test_the_ceiling_is_kept() -> None:
    runner = runner_of()
    facts = runner.describe()
    assert 0 < facts["graphs"] == len([g for g in runner._graphs.values() if g])
    assert facts["graph_memory_mib"] <= facts["graph_memory_ceiling_mib"]


def test_a_latent_purifier_is_served(tmp_path: Path) -> None:
    LatentPurificationPipeline.tiny().save_pretrained(tmp_path)
    engine = load_engine(EngineOptions(str(tmp_path), "cuda:0", graphs=LIMITS))
    images = pictures(2)
    assert engine.facts.backend == Backend.GRAPHS
    assert engine.facts.details["graphs"] > 0
    assert (engine.purify(images) != engine.purify(images)).any()
