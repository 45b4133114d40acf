"""Attacks through a defence raise the loss behind that defence, on PNG files within the ball."""

import numpy as np
import pytest
import torch

from codefend.lab.attacks.adaptive import AdaptiveConfig, attack_through
from codefend.lab.attacks.objectives import untargeted_loss
from codefend.lab.attacks.pixels import decode_png
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.compression import jpeg
from codefend.lab.baselines.defence import defend
from codefend.lab.baselines.filters import blur, gaussian_noise
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.victims.dialogue import Dialogue
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.quantise import dequantise

TRUTHS = [[Dialogue("what is at the top left?", "a red car"), Dialogue("describe.", "a cat")]] * 3
PURIFIER = purifying("purifier", PurificationPipeline.tiny(), "0" * 64, num_steps=2)
CASES = [
    (jpeg(50), "bpda", 1),
    (blur(1.0), "exact", 1),
    (gaussian_noise(0.03), "exact", 3),
    *((PURIFIER, gradient, 3) for gradient in ("exact", "bpda", "surrogate")),
]


def config(gradient="exact", num_draws=1, **search):
    fields = {"name": "apgd", "epsilon": 8 / 255, "steps": 4, **search}
    return AdaptiveConfig(search=AttackConfig(**fields), gradient=gradient, num_draws=num_draws)


@pytest.fixture
def pixels(photos):
    return list((photos * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy())


def losses_behind(defence, victim, images):
    """Mean over seeds of the loss of defended uploads, as they would be scored."""
    loss = untargeted_loss(victim, TRUTHS)
    seen = [np.stack(defend(defence, images, seed=seed)) for seed in range(4)]
    with torch.no_grad():
        return torch.stack([loss(dequantise(torch.from_numpy(s))) for s in seen]).mean(dim=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defence", "gradient", "num_draws"), CASES, ids=[f"{d.name}-{g}" for d, g, _ in CASES]
)
def test_loss_behind_the_defence_rises(defence, gradient, num_draws, victim, pixels):
    steps = []
    files = attack_through(
        config(gradient, num_draws),
        victim,
        defence.gradient_paths[gradient],
        pixels,
        TRUTHS,
        on_step=lambda: steps.append(1),
    )
    attacked = [decode_png(data) for data in files]
    assert len(steps) == config(gradient).num_evaluations == 5
    for after, before in zip(attacked, pixels, strict=True):
        assert 1 <= np.abs(after.astype(int) - before).max() <= 8
    before, after = (losses_behind(defence, victim, images) for images in (pixels, attacked))
    assert (after > before).all()


@pytest.mark.slow
def test_seed_decides_everything(victim, pixels):
    first, again, other = (
        attack_through(
            config("exact", 2, steps=2, seed=seed),
            victim,
            PURIFIER.gradient_paths["exact"],
            pixels,
            TRUTHS,
        )
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_refuses_what_it_cannot_do():
    for wrong in ({"goal": "encoder"}, {"targeted": True}):
        with pytest.raises(ValueError, match="untargeted"):
            config(**wrong)
    with pytest.raises(ValueError, match="positive"):
        config(num_draws=0)
