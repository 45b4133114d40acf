"""Chains of defences, the bilateral filter, and the words that a command line names them by."""

import numpy as np
import pytest
import torch

from codefend.lab.baselines.compression import jpeg
from codefend.lab.baselines.defence import NO_DEFENCE, chained, defend
from codefend.lab.baselines.filters import bilateral, gaussian_noise
from codefend.lab.baselines.named import defence_named
from codefend.lab.errors import LabError
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.strengths import STRENGTHS, Strength
from codefend.models.quantise import quantise


def seeded():
    return torch.Generator().manual_seed(3)


def test_a_chain_does_what_its_parts_do_in_turn(photos):
    pixels = list(quantise(photos).numpy())
    noise, codec = gaussian_noise(0.03), jpeg(40)
    both = defend(chained([noise, codec]), pixels, seed=5)
    in_turn = defend(codec, defend(noise, pixels, seed=5), seed=5)
    assert all(np.array_equal(*pair) for pair in zip(both, in_turn, strict=True))


@pytest.mark.parametrize("parts", [[gaussian_noise(0.03), jpeg(40)], [bilateral(0.2), jpeg(60)]])
def test_every_way_through_a_chain_ends_where_the_chain_ends(parts, photos):
    chain = chained(parts)
    wanted = chain.apply(photos, seeded())
    assert set(chain.gradient_paths) == {"surrogate", "bpda"}
    for passage in chain.gradient_paths.values():
        images = photos.clone().requires_grad_(True)
        found = passage(images, seeded())
        assert torch.allclose(found, wanted, atol=1e-6)
        (gradient,) = torch.autograd.grad(found.square().sum(), images)
        assert float(gradient.abs().max()) > 0


def test_a_chain_of_exact_parts_has_an_exact_gradient():
    chain = chained([gaussian_noise(0.03), bilateral(0.2)])
    assert list(chain.gradient_paths) == ["exact"]
    assert chain.is_random
    assert (chain.name, chain.setting) == ("noise+bilateral", "deviation=0.03 sigma_level=0.2")


def test_a_chain_needs_parts():
    with pytest.raises(ValueError, match="at least one"):
        chained([])
    assert chained([NO_DEFENCE]) is NO_DEFENCE


def test_the_bilateral_filter_keeps_edges_and_smooths_what_is_even():
    noise = 0.02 * torch.randn(1, 1, 32, 32, generator=seeded()).expand(1, 3, 32, 32)
    step = torch.zeros(1, 3, 32, 32)
    step[..., 16:] = 0.8
    clean = 0.1 + step
    filtered = bilateral(0.2).apply(clean + noise, seeded())
    assert float((filtered - clean).square().mean()) < 0.1 * float(noise.square().mean())
    assert float((filtered - clean).abs().max()) < 0.05
    with pytest.raises(ValueError, match="positive"):
        bilateral(0.0)


def test_words_name_defences():
    networks = {"purifier": (PurificationPipeline.tiny(), "a" * 64)}
    chain = defence_named("purifier:0.05+jpeg:40", networks)
    assert chain.name == "purifier+jpeg"
    assert chain.setting == f"noise_level=0.05 num_steps=1 weights={'a' * 12} quality=40"
    steps = defence_named("purifier:0.1x4", networks)
    assert steps.setting == f"noise_level=0.1 num_steps=4 weights={'a' * 12}"
    assert defence_named("none", {}) is NO_DEFENCE
    assert defence_named("bit_depth:4", {}).setting == "bits=4"


@pytest.mark.parametrize("strength", list(Strength))
def test_a_strength_is_what_is_served(strength):
    networks = {"purifier": (PurificationPipeline.tiny(), "a" * 64)}
    levels = STRENGTHS[strength].levels(0.05, 1)
    words, found = f"purifier:{levels[0]}x{len(levels)}", _named(f"purifier:{strength}", networks)
    assert found == _named(words, networks)
    if strength is Strength.STANDARD:
        assert found == _named("purifier", networks)


def test_each_image_has_a_level_of_its_own_between_two():
    networks = {"purifier": (PurificationPipeline.tiny(), "a" * 64)}
    found = defence_named("purifier:0.01-0.5", networks)
    assert found.setting == f"noise_level=0.01-0.5 num_steps=1 weights={'a' * 12}"
    grey = torch.full((8, 3, 16, 16), 0.5)
    first = found.apply(grey, seeded())
    assert torch.equal(found.apply(grey, seeded()), first)
    assert not torch.equal(found.apply(grey, torch.Generator().manual_seed(1)), first)
    changes = (first - grey).abs().mean(dim=(1, 2, 3))
    narrow = defence_named("purifier:0.25-0.2500001", networks).apply(grey, seeded())
    ordinary = (narrow - grey).abs().mean(dim=(1, 2, 3))
    assert changes.max() / changes.min() > 2 * ordinary.max() / ordinary.min()


def _named(words, networks):
    found = defence_named(words, networks)
    return found.name, found.setting


def test_a_strength_is_of_pixel_purifiers():
    with pytest.raises(LabError, match="no strength strong"):
        defence_named("latent:strong", {"latent": (LatentPurificationPipeline.tiny(), "a" * 64)})


@pytest.mark.parametrize(
    "word",
    [
        *("jpeg", "jpeg:0", "jpg:30", "noise:x", "purifier:0.05", "", "net:2", "net:0.1x0"),
        *("net:0.2-0.1", "net:0.1-0.1", "net:0-0.1", "net:0.1-2", "net:0.1-0.2x2"),
    ],
)
def test_other_words_are_refused(word):
    with pytest.raises(LabError, match="is no defence"):
        defence_named(word, {"net": (PurificationPipeline.tiny(), "a" * 64)})
