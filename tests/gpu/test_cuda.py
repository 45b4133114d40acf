"""What only a GPU can show: fp16 beside fp32, gradients and training on the device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from codefend.lab.attacks.gradient import PGD
from codefend.lab.attacks.pixels import decode_png
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.attacks.scenes import attack_scenes
from codefend.lab.train.loop import captured
from codefend.lab.victims.dialogue import CAPTION_REQUEST, Dialogue
from codefend.lab.victims.victim import load_victim
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.quantise import dequantise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
PURIFIER = str(WEIGHTS_DIRECTORY / "purifier")


@pytest.fixture
def pixels() -> np.ndarray:
    """Four smooth random images, (4, 128, 128, 3) uint8."""
    coarse = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=128, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def test_half_precision_purifies_as_single_precision(pixels: np.ndarray) -> None:
    images = dequantise(torch.from_numpy(pixels))
    purified = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float16)):
        pipeline = PurificationPipeline.from_pretrained(PURIFIER, dtype=dtype).to(device)
        batch = images.to(device, dtype)
        purified.append(pipeline.purify(batch, noise_level=1e-4).float().cpu())
    assert (purified[0] - purified[1]).abs().max() < 2 / 255


def test_a_latent_purifier_reconstructs_in_half_precision(
    pixels: np.ndarray, tmp_path: Path
) -> None:
    LatentPurificationPipeline.tiny().save_pretrained(tmp_path)
    images = dequantise(torch.from_numpy(pixels))
    kept = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float16)):
        pipeline = load_purifier(tmp_path, dtype=dtype).to(device)
        kept.append(pipeline.reconstruct(images.to(device, dtype)).float().cpu())
    # Random weights scatter more than trained ones: 9 levels on an H100.
    assert (kept[0] - kept[1]).abs().max() < 16 / 255


def test_attacks_keep_their_bound_on_the_device(pixels: np.ndarray) -> None:
    victim = load_victim(WEIGHTS_DIRECTORY / "mllm", device="cuda").astype(torch.bfloat16)
    config = AttackConfig(name="apgd", epsilon=8 / 255, steps=3, goal="margin")
    truths = [[Dialogue(CAPTION_REQUEST, "a cat")]] * len(pixels)
    files = attack_scenes(config, victim, list(pixels), truths)
    moved = np.stack([decode_png(file) for file in files]).astype(int) - pixels
    assert 1 <= abs(moved).max() <= 8


def test_a_captured_step_leaves_the_gradients_of_a_plain_one() -> None:
    layer = torch.nn.Linear(8, 1).cuda()

    def step(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = layer(batch).square().mean()
        loss.backward()
        return {"loss": loss.detach()}

    replay = captured(step, [torch.rand(4, 8, device="cuda")])
    assert replay is not step
    for _ in range(2):
        batch = torch.rand(4, 8, device="cuda")
        found = []
        for run in (step, replay):
            layer.zero_grad(set_to_none=False)
            loss = float(run(batch)["loss"])
            found.append((loss, layer.weight.grad.clone()))
        assert found[0][0] == pytest.approx(found[1][0])
        torch.testing.assert_close(found[0][1], found[1][1])


def test_a_search_on_the_device_climbs(pixels: np.ndarray) -> None:
    images = dequantise(torch.from_numpy(pixels)).cuda()
    attacked = PGD(epsilon=4 / 255, steps=5)(images, lambda x: x.mean(dim=(1, 2, 3)))
    assert attacked.device.type == "cuda"
    assert attacked.mean() > images.mean()


def test_a_checkpoint_of_the_device_is_read_on_a_cpu(tmp_path: Path) -> None:
    pipeline = PurificationPipeline.tiny().to("cuda")
    pipeline.save_pretrained(tmp_path)
    loaded = PurificationPipeline.from_pretrained(tmp_path)
    assert loaded.device.type == "cpu"
