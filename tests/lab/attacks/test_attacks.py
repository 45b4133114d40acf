"""PGD, APGD and noise: ball and range at every radius, and what only they promise."""

import itertools

import pytest
import torch

from codefend.lab.attacks.apgd import APGD, checkpoints
from codefend.lab.attacks.gradient import PGD
from codefend.lab.attacks.interface import Bounds
from codefend.lab.attacks.registry import AttackConfig

EPSILONS = (2 / 255, 8 / 255, 16 / 255)
GRADIENT_ATTACKS = ("pgd", "apgd")
ATTACKS = (*GRADIENT_ATTACKS, "uniform_noise")


def wavy(images):
    """A smooth loss with many local maxima, per image."""
    return (torch.sin(9.0 * images) + images).flatten(1).mean(dim=1)


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def run(name, images, epsilon, seed=0):
    attack = AttackConfig(name=name, epsilon=epsilon, steps=12, restarts=2).build()
    return attack(images, wavy, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "epsilon"), list(itertools.product(ATTACKS, EPSILONS)))
def test_stays_in_ball_and_range(name, epsilon, images):
    adversarial = run(name, images, epsilon)
    assert adversarial.shape == images.shape
    assert (adversarial - images).abs().max() <= epsilon + 1e-6
    assert adversarial.min() >= 0.0
    assert adversarial.max() <= 1.0


@pytest.mark.parametrize(("name", "epsilon"), list(itertools.product(GRADIENT_ATTACKS, EPSILONS)))
def test_loss_rises_for_every_image(name, epsilon, images):
    assert (wavy(run(name, images, epsilon)) > wavy(images)).all()


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_loss_grows_with_epsilon(name, images):
    losses = [wavy(run(name, images, epsilon)).mean() for epsilon in EPSILONS]
    assert losses == sorted(losses)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_seed_decides_everything(name, images):
    assert torch.equal(run(name, images, 8 / 255), run(name, images, 8 / 255))
    assert not torch.equal(run(name, images, 8 / 255), run(name, images, 8 / 255, seed=1))


@pytest.mark.parametrize("attack", [PGD, APGD])
def test_images_do_not_influence_each_other(attack, images):
    run_all = attack(epsilon=8 / 255, steps=10, random_start=False)
    alone = torch.cat([run_all(image[None], wavy) for image in images])
    torch.testing.assert_close(run_all(images, wavy), alone)


@pytest.mark.parametrize("attack", [PGD, APGD])
def test_returns_the_best_point_ever_seen(attack, images):
    seen = []

    def recorded(batch):
        losses = wavy(batch)
        seen.append(losses.detach())
        return losses

    best = attack(epsilon=16 / 255, steps=15, restarts=2)(images, recorded)
    torch.testing.assert_close(wavy(best), torch.stack(seen).amax(dim=0))


@pytest.mark.parametrize("attack", [PGD, APGD])
@pytest.mark.parametrize("wrong", [{"epsilon": -0.1}, {"steps": 0}, {"restarts": 0}])
def test_refuses_meaningless_parameters(attack, wrong):
    with pytest.raises(ValueError, match="must"):
        attack(**{"epsilon": 0.1, "steps": 5, **wrong})


def test_refuses_unknown_attack_and_empty_range():
    with pytest.raises(ValueError, match="unknown attack"):
        AttackConfig(name="magic", epsilon=0.1, steps=1)
    with pytest.raises(ValueError, match="empty range"):
        Bounds(1.0, 0.0)


def test_apgd_checkpoints_are_the_papers():
    # Section 3.1 with 100 steps: p = 0, .22, .41, .57, .70, .80, .87, .93, .99.
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]


def test_apgd_halves_its_step_where_it_oscillates():
    """On |x| around a ridge no fixed step settles; halving brings each image onto the ridge."""
    start = torch.zeros(2, 1, 1, 1)
    ridge = torch.tensor([0.31, 0.173])[:, None, None, None]

    def objective(images):
        return -(images - ridge).abs().flatten(1).sum(dim=1)

    visited = []

    def recorded(images):
        visited.append(images.detach().flatten())
        return objective(images)

    APGD(epsilon=0.5, steps=100, random_start=False)(start, recorded)
    moves = (torch.stack(visited[1:]) - torch.stack(visited[:-1])).abs()
    assert (moves[1:22].amax(dim=0) > 0.2).all()
    assert (moves[-5:].amax(dim=0) < 0.02).all()
    assert (torch.stack(visited)[-1] - ridge.flatten()).abs().max() < 0.02


def test_apgd_keeps_its_step_while_the_loss_rises():
    visited = []

    def slope(images):
        visited.append(images.detach().flatten())
        return images.flatten(1).sum(dim=1)

    APGD(epsilon=0.4, steps=20, step_size=0.01, random_start=False)(torch.zeros(1, 1, 1, 1), slope)
    climbed = torch.stack(visited).flatten()
    assert (climbed[1:] > climbed[:-1]).all()
