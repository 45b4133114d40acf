import json

import numpy as np
import pytest
import torch

from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.eight_bit import eight_bit, measured_ranges
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.ranges import RANGES_NAME, read_ranges, write_ranges
from codefend.models.purifier.strengths import STRENGTHS, Strength
from codefend.models.quantise import dequantise
from tests.service.pictures import picture


@pytest.fixture
def pictures():
    return torch.rand((2, 3, 32, 48), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def shipped():
    return load_purifier(WEIGHTS_DIRECTORY / "purifier")


@pytest.fixture
def kept(tmp_path):
    PurificationPipeline.tiny(0).save_pretrained(tmp_path)
    return tmp_path


def purified(pipeline, pictures):
    return pipeline.purify(pictures, torch.Generator().manual_seed(2))


def ranges_of(pipeline, pictures):
    return measured_ranges(pipeline, [pictures], torch.Generator().manual_seed(2))


def decibels(image, reference):
    return -10 * float(np.log10(float((image - reference).square().mean())))


def test_what_is_rounded_is_nearly_the_same(pictures):
    pipeline = PurificationPipeline.tiny(0)
    rounded = purified(eight_bit(pipeline, ranges_of(pipeline, pictures)), pictures)
    exact = purified(pipeline, pictures)
    assert not torch.equal(rounded, exact)
    assert decibels(rounded, exact) > 45


def test_the_shipped_one_is_far_nearer_to_itself_than_two_draws_of_noise(shipped):
    images = dequantise(torch.tensor(picture(96, 96, 3)[np.newaxis]))
    rounded = eight_bit(shipped, read_ranges(WEIGHTS_DIRECTORY / "purifier"))
    exact = purified(shipped, images)
    other = shipped.purify(images, torch.Generator().manual_seed(3))
    assert decibels(purified(rounded, images), exact) > decibels(other, exact) + 6


def test_ranges_hold_all_that_is_read_and_nothing_of_another_seed(pictures):
    pipeline = PurificationPipeline.tiny(0)
    few, more = (ranges_of(pipeline, images) for images in (pictures[:1], pictures))
    assert few.keys() == more.keys()
    assert all(name not in few for name in ("conv_in", "conv_out"))
    assert all(low <= 0 <= high for low, high in few.values())


def test_values_beyond_a_range_are_clamped_and_stay_finite(pictures):
    pipeline = PurificationPipeline.tiny(0)
    narrow = {name: (-1e-3, 1e-3) for name in ranges_of(pipeline, pictures)}
    assert purified(eight_bit(pipeline, narrow), pictures).isfinite().all()


def test_a_white_box_attackers_gradient_gets_through(pictures):
    pipeline = PurificationPipeline.tiny(0)
    rounded = eight_bit(pipeline, ranges_of(pipeline, pictures))
    gradients = []
    for each in (pipeline, rounded):
        images = pictures.clone().requires_grad_()
        result = each.purify_with_gradient(images, torch.Generator().manual_seed(2))
        gradients.append(torch.autograd.grad(result.square().sum(), images)[0].flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


def test_other_kinds_are_refused(pictures):
    with pytest.raises(ValueError, match="only a pixel purifier"):
        ranges_of(LatentPurificationPipeline.tiny(), pictures)


@pytest.mark.parametrize("strength", list(Strength))
def test_ranges_hold_at_every_strength(pictures, strength):
    pipeline = PurificationPipeline.tiny(0)
    levels = STRENGTHS[strength].levels(0.05, 1)
    options = {"noise_level": levels[0], "num_steps": len(levels)}
    rounded = eight_bit(pipeline, ranges_of(pipeline, pictures))
    found, exact = (
        each.purify(pictures, torch.Generator().manual_seed(2), **options)
        for each in (rounded, pipeline)
    )
    assert decibels(found, exact) > 45


def test_ranges_of_another_network_are_refused(pictures):
    pipeline = PurificationPipeline.tiny(0)
    ranges = dict(ranges_of(pipeline, pictures))
    ranges.popitem()
    with pytest.raises(ValueError, match="another network"):
        eight_bit(pipeline, ranges)


def test_ranges_are_kept_beside_their_weights_alone(kept):
    assert read_ranges(kept) is None
    write_ranges(kept, {"a.conv": (-0.25, 3.5)})
    assert read_ranges(kept) == {"a.conv": (-0.25, 3.5)}
    PurificationPipeline.tiny(1).save_pretrained(kept)
    with pytest.raises(ValueError, match="of other weights"):
        read_ranges(kept)


@pytest.mark.parametrize("content", ["[]", "{", '{"weights": "x", "ranges": {"a": [1]}}', "{}"])
def test_what_holds_no_ranges_is_refused(kept, content):
    (kept / RANGES_NAME).write_text(content)
    with pytest.raises(ValueError, match="holds no ranges"):
        read_ranges(kept)


def test_the_shipped_ranges_are_json_of_the_shipped_weights():
    folder = WEIGHTS_DIRECTORY / "purifier"
    assert (
        read_ranges(folder).keys()
        == json.loads((folder / RANGES_NAME).read_text())["ranges"].keys()
    )
