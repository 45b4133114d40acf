"""A pixel purifier's network as a CPU likes it: what it computes, in fewer and cheaper steps.

What engines convert, in place of the network that was trained. On a CPU a convolution reads its
channels side by side, and whatever wants them in planes costs a copy there and another one back;
what is left here needs no such copy.
"""

from __future__ import annotations

import copy

import torch
from diffusers import UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.purifier import Purifier

__all__ = ["UpsamplingConv", "can_be_folded", "folded"]


def folded(purifier: Purifier) -> Purifier:
    """The purifier with its network folded: equal to rounding, at every noise level.

    Three things change. What the embedding of the noise level adds to each channel moves the means
    and squares that the norm behind it takes, and no picture. Group norm is a scale and a shift of
    each channel, from the channels' means. The nearest neighbour enlarged, then convolved by 3×3,
    is one transposed convolution by 4×4: 4 products instead of 9.

    Args:
        purifier: Of any kind, in single precision; it is left as it is.

    Returns:
        A copy; the purifier itself where it is no pixel purifier.
    """
    if not can_be_folded(purifier):
        return purifier
    folding = copy.copy(purifier)
    folding.unet = _folded(purifier.unet)
    return folding


def can_be_folded(purifier: Purifier) -> bool:
    """Whether it is a pixel purifier."""
    return isinstance(purifier, PurificationPipeline)


class UpsamplingConv(nn.Module):
    """Doubles the sides by nearest neighbour and convolves by 3×3, as one transposed convolution.

    Attributes:
        weight: (in, out, 4, 4): each tap the sum of those of the convolution that fall on one pixel
            before it is enlarged.
        bias: (out,).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Takes the convolution behind the enlargement.

        Args:
            conv: 3×3, padded by 1.
        """
        super().__init__()
        kernel = torch.zeros(conv.in_channels, conv.out_channels, 4, 4)
        for row in range(3):
            for column in range(3):
                taps = conv.weight[:, :, row, column].T
                # Both copies of a pixel, two rows and two columns, meet this tap.
                kernel[:, :, 2 - row : 4 - row, 2 - column : 4 - column] += taps[:, :, None, None]
        self.weight = nn.Parameter(kernel)
        self.bias = conv.bias

    def forward(self, images: Tensor, _output_size: object = None) -> Tensor:
        """(B, in, H, W) to (B, out, 2H, 2W)."""
        return functional.conv_transpose2d(images, self.weight, self.bias, stride=2, padding=1)


class _GroupNorm(nn.Module):
    """Group norm without a reshape, which would take the channels apart."""

    mixing: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias
        size = norm.num_channels // norm.num_groups
        # From the mean of each channel to that of its group.
        groups = torch.eye(norm.num_groups).repeat_interleave(size, dim=0)
        self.register_buffer("mixing", (groups @ groups.T / size)[:, :, None, None])

    def forward(self, images: Tensor, shift: Tensor | None = None) -> Tensor:
        """Of ``images + shift``, the shift (B, C, 1, 1), which is never added to a picture."""
        means, squares = (each.mean((2, 3), keepdim=True) for each in (images, images * images))
        if shift is not None:
            squares = squares + shift * (2 * means + shift)
            means = means + shift
        mean, square = (functional.conv2d(each, self.mixing) for each in (means, squares))
        variance = (square - mean * mean).clamp_min(0)
        scale = _of_channels(self.weight) * torch.rsqrt(variance + self.eps)
        offset = -mean if shift is None else shift - mean
        return images * scale + (_of_channels(self.bias) + offset * scale)


class _Block(nn.Module):
    """A residual block whose second norm takes in what the noise level adds to each channel."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.norm2 = _GroupNorm(block.norm1), _GroupNorm(block.norm2)
        self.conv1, self.conv2 = block.conv1, block.conv2
        self.conv_shortcut = block.conv_shortcut
        self.time_emb_proj = block.time_emb_proj

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        shift = self.time_emb_proj(functional.silu(embedding))[:, :, None, None]
        hidden = self.conv1(functional.silu(self.norm1(images)))
        hidden = self.conv2(functional.silu(self.norm2(hidden, shift)))
        shortcut = images if self.conv_shortcut is None else self.conv_shortcut(images)
        total: Tensor = shortcut + hidden
        return total


@torch.no_grad()
def _folded(network: UNet2DModel) -> UNet2DModel:
    network = copy.deepcopy(network).requires_grad_(False)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            simpler = _simpler(child)
            if simpler is not None:
                setattr(parent, name, simpler)
    return network


def _simpler(module: nn.Module) -> nn.Module | None:
    """What takes a module's place; None where it is of another make than is known here."""
    if isinstance(module, ResnetBlock2D):
        return _Block(module) if _is_plain(module) else None
    if isinstance(module, Upsample2D):
        is_plain = module.interpolate and module.use_conv and module.norm is None
        return UpsamplingConv(module.conv) if is_plain else None
    return _GroupNorm(module) if isinstance(module, nn.GroupNorm) else None


def _is_plain(block: ResnetBlock2D) -> bool:
    return (
        block.time_embedding_norm == "default"
        and block.time_emb_proj is not None
        and not block.skip_time_act
        and block.upsample is None
        and block.downsample is None
        and block.output_scale_factor == 1
        and isinstance(block.nonlinearity, nn.SiLU)
    )


def _of_channels(values: Tensor) -> Tensor:
    return values[None, :, None, None]
