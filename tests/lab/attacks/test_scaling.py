"""A picture in a picture: seen by the filter that it was made for, and by no mean of all pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from codefend.lab.attacks.scaling import ImageScaling, Resampling, scale_down
from codefend.models.shrink import shrink
from codefend.models.tiles import Tiling

SMALL, FACTOR = 32, 8
POINTWISE = [Resampling.NEAREST, Resampling.BILINEAR, Resampling.BICUBIC]


def smooth(seed, side):
    coarse = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def distance(images, others):
    """Mean distance in levels."""
    return 255 * float((images - others).abs().mean())


@pytest.fixture(scope="module")
def covers():
    return smooth(0, SMALL * FACTOR)


@pytest.fixture(scope="module")
def hidden():
    return smooth(1, SMALL)


def attacked(covers, hidden, resampling):
    attack = ImageScaling(hidden=hidden, resampling=resampling)
    adversarial = attack(covers, lambda images: images.flatten(1).sum(1))
    return (adversarial * 255).round() / 255


@pytest.mark.parametrize("resampling", POINTWISE)
def test_another_image_is_seen_after_scaling_and_not_before(covers, hidden, resampling):
    upload = attacked(covers, hidden, resampling)
    seen = scale_down(upload, SMALL, SMALL, resampling)
    own = scale_down(covers, SMALL, SMALL, resampling)
    assert distance(seen, hidden) < 2
    assert distance(own, hidden) > 30
    changed = float(((upload - covers).abs().amax(dim=1) > 2 / 255).float().mean())
    assert changed <= 16 / FACTOR**2, "it changes what the filter looks at, and no more"


@pytest.mark.parametrize("resampling", POINTWISE)
def test_the_mean_of_what_a_pixel_covers_shows_the_cover(covers, hidden, resampling):
    upload = attacked(covers, hidden, resampling)
    pixels = (upload[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    shrunken = torch.from_numpy(shrink(pixels, 2 * SMALL)).permute(2, 0, 1)[None] / 255
    seen = scale_down(shrunken, SMALL, SMALL, resampling)
    own = scale_down(covers[:1], SMALL, SMALL, resampling)
    assert distance(seen, own) < 0.35 * distance(hidden[:1], own)


def test_filters_as_wide_as_what_they_cover_need_changes_all_over(covers, hidden):
    upload = attacked(covers, hidden, Resampling.ANTIALIASED_BILINEAR)
    assert distance(upload, covers) > 5 * distance(
        attacked(covers, hidden, Resampling.NEAREST), covers
    )


@pytest.mark.parametrize(
    ("resampling", "pillow"),
    [
        (Resampling.ANTIALIASED_BILINEAR, Image.Resampling.BILINEAR),
        (Resampling.ANTIALIASED_BICUBIC, Image.Resampling.BICUBIC),
        (Resampling.NEAREST, Image.Resampling.NEAREST),
    ],
)
def test_filters_are_those_of_pillow(covers, resampling, pillow):
    pixels = (covers[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((SMALL, SMALL), pillow))
    floats = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    seen = scale_down(floats, SMALL, SMALL, resampling)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(seen - expected).max() <= 2


def test_tiles_hide_nothing_more(covers):
    """Scaling comes before tiles: these leave an image's size, and so its attack, as it is."""
    pixels = (covers[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(Tiling(1, 64, 8).apply(lambda tile: tile, pixels), pixels)


def test_each_image_takes_one_to_hide(covers, hidden):
    with pytest.raises(ValueError, match="1 images to hide in 2"):
        ImageScaling(hidden=hidden[:1])(covers, lambda images: images)
