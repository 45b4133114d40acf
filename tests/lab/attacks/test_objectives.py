"""Each objective goes up under attack, on a LLaVA, image by image."""

import pytest
import torch

from lab.attacks.objectives import (
    answer_margin,
    encoder_distance,
    targeted_loss,
    untargeted_loss,
)
from lab.attacks.pgd import PGD
from lab.victims.dialogue import Dialogue

ASKED = "what is at the top left?"
TRUTHS = [[Dialogue(ASKED, "a red car"), Dialogue("describe the image.", "a cat")]] * 3
TARGETS = [Dialogue("describe the image.", text) for text in ("a cat", "yes", "a red car")]


def objectives(victim, photos):
    return {
        "untargeted": untargeted_loss(victim, TRUTHS),
        "margin": answer_margin(victim, TRUTHS),
        "targeted": targeted_loss(victim, TARGETS),
        "cosine": encoder_distance(victim, photos),
        "l2": encoder_distance(victim, photos, metric="l2"),
        "towards": encoder_distance(victim, photos.roll(1, 0), towards=True),
    }


@pytest.mark.parametrize("name", ["untargeted", "margin", "targeted", "cosine", "l2", "towards"])
def test_attack_raises_objective(name, victim, photos):
    objective = objectives(victim, photos)[name]
    generator = torch.Generator().manual_seed(0)
    adversarial = PGD(epsilon=16 / 255, steps=3)(photos, objective, generator=generator)
    with torch.no_grad():
        before, after = objective(photos), objective(adversarial)
    assert before.shape == (3,)
    assert (after > before).all()


def test_targeted_loss_is_minus_the_untargeted(victim, photos):
    target = targeted_loss(victim, TARGETS)
    away = untargeted_loss(victim, [[target] for target in TARGETS])
    torch.testing.assert_close(target(photos), -away(photos))


def test_own_features_are_at_distance_zero(victim, photos):
    assert encoder_distance(victim, photos)(photos).abs().max() < 1e-5
