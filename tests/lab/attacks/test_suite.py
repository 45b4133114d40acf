"""Every attack of the registry by table: bound, range, loss, seed, batch and family."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from codefend.lab.attacks.budgets import Ball, Shift, Similarity, Window
from codefend.lab.attacks.pixels import attack_pixels, decode_png
from codefend.lab.attacks.registry import ATTACKS, HELD_OUT, AttackConfig, Family

# name: (what bounds it, its family under the goal "language")
TABLE = {
    "pgd": (Ball(8 / 255), "language_loss"),
    "apgd": (Ball(8 / 255), "language_loss"),
    "m_attack": (Ball(8 / 255), "local_crops"),
    "ensemble": (Ball(8 / 255), "surrogate_ensemble"),
    "universal": (Ball(8 / 255), "universal"),
    "low_frequency": (Ball(8 / 255), "low_frequency"),
    "joint": (Ball(8 / 255), "joint"),
    "patch": (Window(0.05), "patch"),
    "patch_corner": (Window(0.05), "patch"),
    "perceptual": (Similarity(0.05), "perceptual"),
    "spatial": (Shift(2.0), "spatial"),
    "typographic": (Window(0.1), "typographic"),
    "figstep": (Window(1.0), "typographic"),
    "scaling": (Window(1.0), "scaling"),
    "uniform_noise": (Ball(8 / 255), "random_noise"),
}
NO_GRADIENT = {"typographic", "figstep", "scaling", "uniform_noise"}
SEARCHES = sorted(set(TABLE) - NO_GRADIENT)


def config(name, **changes):
    epsilon = 8 / 255 if ATTACKS[name].is_ball else 1.0
    return AttackConfig(**{"name": name, "epsilon": epsilon, "steps": 12, **changes})


@pytest.fixture(scope="module")
def clean():
    """Four smooth images (4, 48, 64, 3) uint8: not square, some pixels at the ends of the range."""
    coarse = torch.rand(4, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse * 1.3 - 0.15, size=(48, 64), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def images(clean):
    return torch.from_numpy(clean).permute(0, 3, 1, 2) / 255


def slope(images):
    """A smooth pattern, the same for all images: what one perturbation for many can meet."""
    pattern = torch.linspace(-2, 2, images.shape[-1]).cos() - torch.linspace(
        -1, 1, images.shape[-2]
    ).sin().unsqueeze(1)
    return (images * pattern.to(images)).flatten(1).mean(dim=1)


def wavy(images):
    """A smooth loss with many local maxima: where a search ends depends on its start."""
    return (torch.sin(9.0 * images) + images).flatten(1).mean(dim=1)


def run(name, images, seed=0, objective=slope, **changes):
    attack = config(name, **changes).build()
    return attack(images, objective, generator=torch.Generator().manual_seed(seed))


def test_the_table_is_complete():
    assert set(TABLE) == set(ATTACKS)


@pytest.mark.parametrize("name", TABLE)
def test_budget_is_the_stated_one(name):
    assert config(name).budget == TABLE[name][0]


@pytest.mark.parametrize("name", TABLE)
def test_uploads_keep_the_bound_and_differ(name, clean):
    files = attack_pixels(
        config(name).build(),
        list(clean),
        slope,
        epsilon=8 / 255,
        generator=torch.Generator().manual_seed(0),
    )
    attacked = np.stack([decode_png(file) for file in files])
    assert attacked.dtype == np.uint8
    assert TABLE[name][0].admits(attacked, clean).all()
    moved = np.abs(attacked.astype(int) - clean.astype(int)).max(axis=(1, 2, 3))
    assert (moved > 0).all()
    assert (moved.max() > 8) == (not ATTACKS[name].is_ball)


@pytest.mark.parametrize("name", TABLE)
def test_keeps_shape_and_range(name, images):
    adversarial = run(name, images)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == images.dtype
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0.0
    assert adversarial.max() <= 1.0


@pytest.mark.parametrize("name", SEARCHES)
def test_loss_rises_for_every_image(name, images):
    assert (slope(run(name, images)) > slope(images) + 1e-4).all()


# Universal ones are chosen on other images than they are applied to.
@pytest.mark.parametrize("name", sorted(set(SEARCHES) - {"universal"}))
def test_more_restarts_never_harm(name, images):
    once, often = (slope(run(name, images, restarts=num)) for num in (1, 3))
    assert (often >= once - 1e-6).all()


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"scaling"}))  # that one draws nothing
def test_seed_decides_everything(name, images):
    first, again, other = (run(name, images, seed, wavy, steps=4) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", TABLE)
def test_needs_no_generator(name, images):
    assert config(name, steps=1).build()(images, slope).shape == images.shape


@pytest.mark.parametrize("name", sorted(set(SEARCHES) - {"universal"}))
def test_images_do_not_influence_each_other(name, images):
    others = torch.cat([images[:1], images[1:].flip(0, 3)])
    assert torch.equal(run(name, others)[0], run(name, images)[0])


@pytest.mark.parametrize("name", TABLE)
def test_families_and_what_is_held_out(name):
    family = TABLE[name][1]
    trained = family in {"language_loss", "encoder_features"}
    assert config(name).family == family
    assert config(name).is_held_out is not trained
    if trained:
        assert config(name).for_training() == config(name)
    else:
        with pytest.raises(ValueError, match="held out"):
            config(name).for_training()


def test_training_may_use_two_families_and_no_other():
    assert set(Family) - HELD_OUT == {"language_loss", "encoder_features"}
    goals = ("language", "margin", "encoder", "prototype", "matching")
    trained = [goal for goal in goals if not config("apgd", goal=goal).is_held_out]
    assert trained == ["language", "margin", "encoder", "prototype"]


def test_identity_of_an_attack_has_not_changed():
    assert asdict(AttackConfig(name="apgd", epsilon=0.5, steps=9)) == {
        "name": "apgd",
        "epsilon": 0.5,
        "steps": 9,
        "restarts": 1,
        "goal": "language",
        "targeted": False,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "patch", "epsilon": 8 / 255}, "epsilon must be 1"),
        ({"name": "joint", "goal": "encoder"}, "no goal"),
        ({"name": "joint", "targeted": True}, "no targeted form"),
        ({"name": "typographic", "targeted": True}, "no targeted form"),
        ({"name": "apgd", "goal": "margin", "targeted": True}, "no targeted form"),
    ],
)
def test_refuses_what_the_attack_cannot_do(wrong, message):
    with pytest.raises(ValueError, match=message):
        config(**wrong)
