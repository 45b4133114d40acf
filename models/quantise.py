"""Between the bytes of a picture and the floats of a network, alike in the lab and the service.

Every attack is scored, and every purified image is sent, after this rounding.
"""

import torch
from torch import Tensor

__all__ = ["as_bytes", "dequantise", "quantise", "round_to_levels"]

LEVELS = 255


def quantise(images: Tensor) -> Tensor:
    """Rounds images to bytes, half to even, then clamps.

    Args:
        images: (B, 3, H, W) floating point, nominally in [0, 1]; values outside are clamped.

    Returns:
        (B, H, W, 3) uint8, contiguous, on the same device.

    Raises:
        ValueError: The images hold NaN or are not floating point (B, 3, H, W).
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        msg = f"expected floating point (B, 3, H, W), got {images.dtype} {tuple(images.shape)}"
        raise ValueError(msg)
    levels = round_to_levels(images)
    if bool(torch.isnan(levels).any()):
        msg = "images hold NaN"
        raise ValueError(msg)
    return as_bytes(levels)


def round_to_levels(images: Tensor) -> Tensor:
    """Images to levels of 255 in single precision, half to even; neither checked nor clamped."""
    # In half precision 255 * x has a step of 0.125 near white: rounding there would be biased.
    return (images.float() * LEVELS).round()


def as_bytes(levels: Tensor) -> Tensor:
    """Levels (B, 3, H, W), clamped, to (B, H, W, 3) uint8; what NaN becomes is not defined."""
    return levels.clamp(0, LEVELS).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def dequantise(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turns bytes into floats in [0, 1].

    Args:
        pixels: (B, H, W, 3) uint8.
        dtype: Floating point type of the result.

    Returns:
        (B, 3, H, W) of `dtype` in [0, 1], in channels-last memory order.

    Raises:
        ValueError: The pixels are not uint8 (B, H, W, 3).
    """
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype is not torch.uint8:
        msg = f"expected uint8 (B, H, W, 3), got {pixels.dtype} {tuple(pixels.shape)}"
        raise ValueError(msg)
    # Divided in float32: x / 255 in half precision would not round back to the same byte.
    return (pixels.permute(0, 3, 1, 2).float() / LEVELS).to(dtype)
