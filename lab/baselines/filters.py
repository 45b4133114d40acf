"""Defences with nothing to learn beside codecs: blurs, the bilateral filter, noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from codefend.lab.baselines.defence import Defence, straight_through, with_gradient_of

__all__ = ["bilateral", "blur", "gaussian_kernel", "gaussian_noise", "median"]


NEAR = 4 / 255  # how far from the median a level may lie and still be moved towards its place


def gaussian_kernel(sigma_px: float, radius_px: int) -> Tensor:
    """A normalised Gaussian (2 radius + 1,) float32."""
    distances = torch.arange(-radius_px, radius_px + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (distances / sigma_px) ** 2)
    return weights / weights.sum()


def blur(sigma_px: float) -> Defence:
    """Convolves with a Gaussian cut at three standard deviations, the border reflected.

    Args:
        sigma_px: standard deviation in pixels.

    Raises:
        ValueError: where it is not positive.
    """
    if sigma_px <= 0:
        raise ValueError(f"sigma must be positive, got {sigma_px}")
    radius = max(1, round(3.0 * sigma_px))
    kernel = gaussian_kernel(sigma_px, radius)

    def apply(images: Tensor, generator: Generator) -> Tensor:
        weights = kernel.to(images)
        padded = F.pad(images, (radius,) * 4, mode="reflect")
        rows = F.conv2d(padded, weights.view(1, 1, 1, -1).expand(3, -1, -1, -1), groups=3)
        return F.conv2d(rows, weights.view(1, 1, -1, 1).expand(3, -1, -1, -1), groups=3)

    return Defence("blur", f"sigma_px={sigma_px:g}", apply, gradient_paths={"exact": apply})


def median(size_px: int) -> Defence:
    """Takes the median of a square window of each channel, the border reflected.

    Args:
        size_px: side of the window, odd.

    Raises:
        ValueError: where it is even or below 3.
    """
    if size_px < 3 or size_px % 2 == 0:
        raise ValueError(f"the window must be odd and at least 3, got {size_px}")
    radius = size_px // 2

    def windows_of(images: Tensor) -> Iterator[Tensor]:
        """One image at a time: the windows take size_px squared times its memory."""
        padded = F.pad(images, (radius,) * 4, mode="reflect")
        for image in padded.unfold(2, size_px, 1).unfold(3, size_px, 1):
            yield image.flatten(3)

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return torch.stack([windows.median(dim=3).values for windows in windows_of(images)])

    def by_proxy(images: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            medians = apply(images.detach(), generator)
        near = [_mean_near(*pair) for pair in zip(windows_of(images), medians, strict=True)]
        return with_gradient_of(medians, torch.stack(near))

    # The median passes its gradient to one pixel of a window, the identity to its middle, and the
    # proxy to all that a small change may make the median.
    gradient_paths = {"exact": apply, "surrogate": by_proxy, "bpda": straight_through(apply)}
    return Defence("median", f"size_px={size_px}", apply, gradient_paths=gradient_paths)


def _mean_near(windows: Tensor, medians: Tensor) -> Tensor:
    """The mean of each window (..., K), by weights that fall off with the distance from (...,)."""
    with torch.no_grad():
        distances = (windows - medians[..., None]).abs()
        weights = torch.softmax(-distances / NEAR, dim=-1)
    return (weights * windows).sum(dim=-1)


_RADIUS_PX = 3
_SIGMA_PX = 1.5


def bilateral(sigma_level: float) -> Defence:
    """Averages each pixel with those of a 7 × 7 window that are near in place and in colour.

    Args:
        sigma_level: standard deviation of the colour weights, a fraction of the range.

    Raises:
        ValueError: where it is not positive.
    """
    if sigma_level <= 0:
        raise ValueError(f"sigma_level must be positive, got {sigma_level}")

    def apply(images: Tensor, generator: Generator) -> Tensor:
        height, width = images.shape[-2:]
        padded = F.pad(images, (_RADIUS_PX,) * 4, mode="reflect")
        total = torch.zeros_like(images)
        weights = torch.zeros_like(images[:, :1])
        for down in range(2 * _RADIUS_PX + 1):
            for right in range(2 * _RADIUS_PX + 1):
                shifted = padded[..., down : down + height, right : right + width]
                place = (down - _RADIUS_PX) ** 2 + (right - _RADIUS_PX) ** 2
                colour = (shifted - images).square().sum(dim=1, keepdim=True)
                exponent = -place / (2 * _SIGMA_PX**2) - colour / (2 * sigma_level**2)
                weight = exponent.exp()
                total = total + weight * shifted
                weights = weights + weight
        return total / weights

    return Defence(
        "bilateral", f"sigma_level={sigma_level:g}", apply, gradient_paths={"exact": apply}
    )


def gaussian_noise(deviation: float) -> Defence:
    """Adds fresh normal noise and clips.

    Args:
        deviation: standard deviation, as a fraction of the range.

    Raises:
        ValueError: where it is not positive.
    """
    if deviation <= 0:
        raise ValueError(f"the deviation must be positive, got {deviation}")

    def apply(images: Tensor, generator: Generator) -> Tensor:
        # Drawn on the CPU, so that a seed means the same noise on every device.
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype)
        return (images + deviation * noise.to(images.device)).clamp(0.0, 1.0)

    setting = f"deviation={deviation:g}"
    return Defence("noise", setting, apply, is_random=True, gradient_paths={"exact": apply})
