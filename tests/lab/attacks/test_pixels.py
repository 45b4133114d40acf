"""Rounding to whole levels never leaves the ball, and PNG keeps every level."""

import numpy as np
import pytest
import torch

from codefend.lab.attacks.gradient import UniformNoise
from codefend.lab.attacks.pixels import attack_pixels, decode_png, quantise_within


@pytest.mark.parametrize("epsilon", [2 / 255, 4 / 255, 7.6 / 255, 16 / 255])
def test_rounding_stays_in_the_ball(epsilon):
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    floats = torch.from_numpy(clean).permute(0, 3, 1, 2) / 255.0
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], floats.shape))
    pixels = quantise_within((floats + signs * epsilon).clamp(0, 1), clean, epsilon)
    moved = np.abs(pixels.astype(int) - clean.astype(int))
    assert moved.max() == int(epsilon * 255 + 1e-6)
    assert pixels.dtype == np.uint8


def test_uploads_decode_to_what_was_attacked():
    rng = np.random.default_rng(0)
    clean = [rng.integers(0, 256, (12, 10, 3), dtype=np.uint8) for _ in range(2)]
    files = attack_pixels(
        UniformNoise(epsilon=8 / 255),
        clean,
        lambda images: images.flatten(1).sum(dim=1),
        epsilon=8 / 255,
        generator=torch.Generator().manual_seed(0),
    )
    for file, before in zip(files, clean, strict=True):
        moved = np.abs(decode_png(file).astype(int) - before.astype(int))
        assert 1 <= moved.max() <= 8
