"""What each attack promises beside its bound: band, place, smoothness, other scenes, crops."""

import math

import numpy as np
import pytest
import torch

from codefend.lab.attacks.budgets import ssim
from codefend.lab.attacks.parametrised import (
    AdversarialPatch,
    LowFrequency,
    PerceptualAttack,
    SpatialFlow,
    low_pass,
)
from codefend.lab.attacks.transfer import (
    EnsembleTransfer,
    LocalCrops,
    UniversalPerturbation,
    read_boxes,
)

SEED = 3


def generator(seed=SEED):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    coarse = torch.rand(4, 3, 8, 8, generator=generator(0))
    smooth = torch.nn.functional.interpolate(coarse, size=64, mode="bicubic")
    return smooth.clamp(0.1, 0.9)


def wavy(images):
    return (torch.sin(9.0 * images) + images).flatten(1).mean(dim=1)


def test_low_pass_is_a_projection_that_keeps_a_constant(images):
    once = low_pass(images.double(), 0.25)
    torch.testing.assert_close(low_pass(once, 0.25), once)
    torch.testing.assert_close(low_pass(torch.ones(1, 3, 9, 7), 0.2), torch.ones(1, 3, 9, 7))
    torch.testing.assert_close(low_pass(images, 1.0), images)


def test_low_frequency_perturbation_lies_in_the_band_and_fills_the_ball(images):
    attack = LowFrequency(epsilon=8 / 255, steps=10, band=0.125)
    delta = attack(images, wavy, generator=generator()) - images
    torch.testing.assert_close(low_pass(delta, 0.125), delta, atol=1e-6, rtol=0)
    assert (delta.abs().amax(dim=(1, 2, 3)) > 7 / 255).all()
    assert (delta.square().mean(dim=(1, 2, 3)).sqrt() > 4 / 255).all()


def test_patch_lies_where_it_is_told_and_elsewhere_each_time_where_not(images):
    corner = AdversarialPatch(steps=2, place=(1.0, 0.0))(images, wavy, generator=generator())
    changed = (corner != images).any(dim=1)
    side = math.isqrt(int(0.05 * 64 * 64))
    assert changed[:, -side:, :side].float().mean() > 0.99
    assert changed.sum(dim=(1, 2)).max() <= side * side
    places = set()
    for seed in range(4):
        anywhere = AdversarialPatch(steps=1)(images, wavy, generator=generator(seed))
        places |= {tuple(m.nonzero().amin(dim=0).tolist()) for m in (anywhere != images).any(dim=1)}
    assert len(places) > 8


def test_patch_is_not_bounded_in_magnitude(images):
    patched = AdversarialPatch(steps=20)(images, lambda x: x.flatten(1).sum(1), generator=None)
    assert patched.amax() == 1.0
    assert (patched - images).abs().amax() > 0.5


def test_perceptual_attack_uses_its_bound_and_moves_single_pixels_far(images):
    attack = PerceptualAttack(steps=10, distance=0.1)
    adversarial = attack(images, wavy, generator=generator())
    distance = 1.0 - ssim(adversarial, images)
    assert (distance <= 0.1 + 1e-6).all()
    assert (distance > 0.09).all()
    assert (adversarial - images).abs().amax() > 16 / 255
    with pytest.raises(ValueError, match="at least 11"):
        attack(images[..., :10], wavy)


def test_spatial_flow_keeps_flat_images_and_moves_edges():
    flat = torch.full((1, 3, 32, 32), 0.3)
    torch.testing.assert_close(SpatialFlow(steps=2)(flat, wavy, generator=generator()), flat)
    edge = torch.zeros(1, 1, 32, 32)
    edge[..., 16:] = 1.0
    moved = SpatialFlow(steps=10, radius_px=3.0)(edge, lambda x: x.flatten(1).mean(1))
    assert moved[..., 13:16].mean() > 0.8  # white has come to the left by nearly three pixels
    assert moved[..., :12].max() == 0.0
    still = SpatialFlow(steps=2, radius_px=0.0)(edge, lambda x: x.flatten(1).mean(1))
    torch.testing.assert_close(still, edge)


def test_universal_perturbation_is_one_for_half_a_batch_and_comes_from_the_other(images):
    """Each half's own loss asks for the opposite sign: what an image gets shows who taught it."""
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])

    def objective(batch):
        return signs * batch.flatten(1).mean(dim=1)

    delta = UniversalPerturbation(epsilon=8 / 255, steps=5)(images, objective) - images
    torch.testing.assert_close(delta[0], delta[2])
    torch.testing.assert_close(delta[1], delta[3])
    torch.testing.assert_close(delta[0], torch.full_like(delta[0], -8 / 255))
    torch.testing.assert_close(delta[1], torch.full_like(delta[0], 8 / 255))


def test_universal_perturbation_is_learned_and_applied_elsewhere(images):
    attack = UniversalPerturbation(epsilon=8 / 255, steps=5)
    learned = attack.learn(images[:3], lambda x: x.flatten(1).mean(1), generator=generator())
    assert learned.shape == (1, 3, 64, 64)
    torch.testing.assert_close(attack.apply(images[3:], learned), images[3:] + 8 / 255)
    with pytest.raises(ValueError, match="at least two"):
        attack(images[:1], wavy)


def test_reading_the_whole_box_is_the_identity_and_a_half_is_enlarged(images):
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, 4)
    torch.testing.assert_close(read_boxes(images, whole, (64, 64)), images)
    boxes = torch.tensor([[0.5, 0.25, 0.5, 0.5]]).expand(4, 4)
    torch.testing.assert_close(
        read_boxes(images, boxes, (32, 32)), images[:, :, 32:, 16:48], atol=1e-6, rtol=0
    )
    shrunk = read_boxes(images, whole, (16, 16))
    expected = torch.nn.functional.interpolate(
        images, size=(16, 16), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(shrunk[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


@pytest.mark.parametrize(
    ("attack", "num_passes"),
    [
        (LocalCrops(epsilon=8 / 255, steps=4, num_crops=3), 4 * 3 + 1),
        (EnsembleTransfer(epsilon=8 / 255, steps=4, scales=(0.5, 1.5)), 4 * 3 + 1),
        (EnsembleTransfer(epsilon=8 / 255, steps=4, scales=()), 4 + 1),
    ],
)
def test_each_step_asks_for_every_view_and_no_two_are_alike(attack, num_passes, images):
    seen = []

    def recorded(batch):
        seen.append(batch.detach())
        return wavy(batch)

    attack(images, recorded, generator=generator())
    assert len(seen) == num_passes
    assert all(batch.shape == images.shape for batch in seen)
    assert len({batch.numpy().tobytes() for batch in seen[:-1]}) == num_passes - 1


def test_crops_show_the_stated_share_of_the_image():
    boxes = LocalCrops(epsilon=0.1, steps=1)._boxes(500, generator())
    area = (boxes[:, 2] * boxes[:, 3]).numpy()
    assert area.min() >= 0.49
    assert area.max() <= 0.9 + 1e-6
    assert np.ptp(area) > 0.3
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 1.0 + 1e-6


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: AdversarialPatch(steps=1, area=0.0),
        lambda: AdversarialPatch(steps=1, place=(2.0, 0.0)),
        lambda: LowFrequency(epsilon=0.1, steps=1, band=0.0),
        lambda: LocalCrops(epsilon=0.1, steps=1, num_crops=0),
        lambda: LocalCrops(epsilon=0.1, steps=1, scale=(0.9, 0.5)),
        lambda: EnsembleTransfer(epsilon=0.1, steps=1, scales=(0.0,)),
        lambda: SpatialFlow(steps=1, spacing_px=0),
        lambda: PerceptualAttack(steps=1, distance=1.0),
        lambda: UniversalPerturbation(epsilon=0.1, steps=0),
    ],
)
def test_refuses_meaningless_parameters(wrong):
    with pytest.raises(ValueError, match="must"):
        wrong()
