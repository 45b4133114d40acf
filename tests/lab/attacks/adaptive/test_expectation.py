"""The averaged objective: its value and gradient are means of draws, and agree with differences."""

import copy

import pytest
import torch

from codefend.lab.attacks.adaptive import ThroughDefence, surrogate_forward
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.likelihood import DialogueLoss
from codefend.lab.victims.victim import load_victim
from codefend.models.purifier.pipeline import PurificationPipeline


def brightness(images):
    return images.square().flatten(1).mean(dim=1)


def shifted(images, generator):
    """Adds one and the same random number: its effect can be worked out."""
    return images + torch.rand((), generator=generator)


def ascent(objective, images):
    leaf = images.clone().requires_grad_(True)
    losses = objective(leaf)
    return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_value_and_gradient_are_means_over_draws(images):
    objective = ThroughDefence(brightness, shifted, torch.Generator().manual_seed(3), 5)
    losses, gradients = ascent(objective, images)
    replay = torch.Generator().manual_seed(3)
    draws = [ascent(lambda x: brightness(shifted(x, replay)), images) for _ in range(5)]
    torch.testing.assert_close(losses, torch.stack([loss for loss, _ in draws]).mean(dim=0))
    torch.testing.assert_close(gradients, torch.stack([grad for _, grad in draws]).mean(dim=0))


def test_value_is_the_same_with_and_without_gradients(images):
    with_gradient, without = (
        ThroughDefence(brightness, shifted, torch.Generator().manual_seed(3), 4) for _ in range(2)
    )
    torch.testing.assert_close(ascent(with_gradient, images)[0], without(images))


def test_every_call_draws_anew(images):
    objective = ThroughDefence(brightness, shifted, torch.Generator().manual_seed(3), 2)
    assert not torch.equal(objective(images), objective(images))


def test_draws_at_once_are_the_same_mean(images):
    """Each copy of the batch gets its own noise: here, its place in a counted sequence."""

    def numbered(batch, generator):
        first = int(torch.randint(9, (), generator=generator))
        copies = len(batch) // len(images)
        steps = torch.arange(first, first + copies).repeat_interleave(len(images)) / 10
        return batch * steps.view(-1, 1, 1, 1)

    objective = ThroughDefence(brightness, numbered, torch.Generator().manual_seed(3), 6, 3)
    losses, gradients = ascent(objective, images)
    replay = torch.Generator().manual_seed(3)
    firsts = [int(torch.randint(9, (), generator=replay)) for _ in range(2)]
    scales = [(first + step) / 10 for first in firsts for step in range(3)]
    draws = [ascent(lambda x, scale=scale: brightness(x * scale), images) for scale in scales]
    torch.testing.assert_close(losses, torch.stack([loss for loss, _ in draws]).mean(dim=0))
    torch.testing.assert_close(gradients, torch.stack([grad for _, grad in draws]).mean(dim=0))


def test_draws_that_do_not_fill_their_batches_are_refused():
    with pytest.raises(ValueError, match="at once"):
        ThroughDefence(brightness, shifted, torch.Generator(), 6, 4)


def test_an_empty_average_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        ThroughDefence(brightness, shifted, torch.Generator(), 0)


def test_memory_does_not_grow_with_draws(images):
    alive = []

    def tracked(candidates, generator):
        seen = shifted(candidates, generator)
        alive.append(torch.tensor(0.0))
        return seen

    sizes = []
    for num_draws in (1, 8):
        kept = []

        def pack(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        objective = ThroughDefence(brightness, tracked, torch.Generator(), num_draws)
        leaf = images.clone().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            objective(leaf)
        sizes.append(sum(kept[-1:]))
    assert sizes[0] == sizes[1]
    assert len(alive) == 9


@pytest.fixture(scope="module")
def double():
    """A purifier in float64 that is far from the identity, so that its derivative matters."""
    pipeline = PurificationPipeline.tiny()
    for parameter in pipeline.unet.parameters():
        parameter.data = parameter.data.double()
    pipeline.unet.conv_out.weight.data *= 10.0
    return purifying("purifier", pipeline, "0" * 64, noise_level=0.3, num_steps=2)


@pytest.fixture(scope="module")
def precise(victim, tmp_path_factory):
    """The tiny victim in float64, loaded as the command lines load one."""
    folder = tmp_path_factory.mktemp("victim")
    victim.model.save_pretrained(folder)
    victim.processor.save_pretrained(folder)
    return load_victim(folder, dtype=torch.float64)


def directions(images, num=6):
    generator = torch.Generator().manual_seed(7)
    return torch.randn((num, *images.shape), generator=generator, dtype=images.dtype)


@torch.no_grad()
def central_differences(objective, images, size=1e-4):
    """Slopes along random directions; ``objective()`` draws equal noise every time."""
    pairs = [
        [objective()(images + sign * size * direction).sum() for sign in (1, -1)]
        for direction in directions(images)
    ]
    return torch.stack([(up - down) / (2 * size) for up, down in pairs])


def slopes(objective, images):
    """The same slopes by the objective's own gradient."""
    _, gradient = ascent(objective(), images)
    return torch.stack([(gradient * direction).sum() for direction in directions(images)])


@pytest.mark.slow
@pytest.mark.parametrize("num_images", [1, 2])
def test_exact_gradient_agrees_with_central_differences(precise, photos, double, num_images):
    """Purifier, victim and answer's loss, in float64 but for the logits, with the noise replayed.

    One image alone too: the backward pass of batch normalisation has a path of its own there.
    """
    images = (0.2 + 0.6 * photos[:num_images]).double()
    asked = [Dialogue("what is at the top left?", "a red car"), Dialogue("describe.", "a cat")]
    loss = DialogueLoss(precise, [asked] * num_images)

    def objective(passage="exact"):
        generator = torch.Generator().manual_seed(5)
        return ThroughDefence(loss, double.gradient_paths[passage], generator, 1)

    differences = central_differences(objective, images)
    assert torch.cosine_similarity(slopes(objective, images), differences, dim=0) >= 0.99
    # The test can tell: neither the identity nor the surrogate is the purifier's derivative.
    for other in ("bpda", "surrogate"):
        wrong = slopes(lambda name=other: objective(name), images)
        assert torch.cosine_similarity(wrong, differences, dim=0) < 0.99


def test_surrogate_draws_its_noise_level_up_to_the_largest(images, monkeypatch):
    pipeline = PurificationPipeline.tiny()
    levels = []
    real = pipeline.purify_with_gradient

    def watched(*args, noise_level, **kwargs):
        levels.append(noise_level)
        return real(*args, noise_level=noise_level, **kwargs)

    monkeypatch.setattr(pipeline, "purify_with_gradient", watched)
    passage = surrogate_forward(pipeline, largest_noise_level=0.2)
    objective = ThroughDefence(brightness, passage, torch.Generator().manual_seed(0), 40)
    _, gradient = ascent(objective, images)
    assert gradient.abs().sum() > 0
    assert 0 < min(levels) < 0.05
    assert 0.15 < max(levels) <= 0.2
    assert len(set(levels)) == 40
    with pytest.raises(ValueError, match="noise level"):
        surrogate_forward(pipeline, largest_noise_level=1.5)


def test_autocast_multiplies_in_the_lower_precision(images):
    pipeline = PurificationPipeline.tiny()
    passage = purifying("purifier", pipeline, "0" * 64).gradient_paths["exact"]

    def objective(dtype):
        noise = torch.Generator().manual_seed(0)
        return ThroughDefence(brightness, passage, noise, 2, autocast_dtype=dtype)

    exact, coarse = (ascent(objective(dtype), images) for dtype in (None, torch.bfloat16))
    assert coarse[1].dtype == torch.float32
    assert not torch.equal(exact[1], coarse[1])
    assert torch.cosine_similarity(exact[1].flatten(), coarse[1].flatten(), dim=0) > 0.95


def test_victim_in_half_precision_behind_a_purifier_in_single(victim, photos):
    coarse = copy.copy(victim).astype(torch.bfloat16)
    loss = DialogueLoss(coarse, [[Dialogue("describe the image.", "a cat")]] * 3)
    passage = purifying("purifier", PurificationPipeline.tiny(), "0" * 64).gradient_paths["exact"]
    losses, gradient = ascent(
        ThroughDefence(loss, passage, torch.Generator().manual_seed(0), 2), photos
    )
    assert losses.dtype == torch.float32
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()
