"""PSNR and SSIM against values worked out by hand."""

import numpy as np
import pytest

from codefend.lab.evaluate.fidelity import fidelity


def test_equal_images():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert fidelity([image], [image]) == ([100.0], [pytest.approx(1.0)])


def test_constant_difference():
    low = np.full((16, 16, 3), 100, dtype=np.uint8)
    high = np.full((16, 16, 3), 110, dtype=np.uint8)
    (psnr,), (ssim,) = fidelity([high], [low])
    assert psnr == pytest.approx(20 * np.log10(255 / 10))
    x, y = 110 / 255, 100 / 255
    # Without variance only the luminance term of equation 13 is left.
    assert ssim == pytest.approx((2 * x * y + 1e-4) / (x * x + y * y + 1e-4))


def test_noise_lowers_both():
    rng = np.random.default_rng(0)
    clean = rng.integers(60, 190, (24, 24, 3), dtype=np.uint8)
    little, much = (
        (clean + rng.integers(-size, size + 1, clean.shape)).astype(np.uint8) for size in (4, 40)
    )
    psnr, ssim = fidelity([little, much], [clean, clean])
    assert psnr[0] > psnr[1]
    assert 1.0 > ssim[0] > ssim[1] > 0.0
