"""A pixel purifier in 8-bit integers, for processors that multiply them four times as fast.

What each convolution reads and its weights become 256 levels; what is added, the first and the last
convolution, and those that enlarge, stay as they are. Torch computes with the levels' values, so
that what is measured and attacked in the laboratory is what OpenVINO runs in whole numbers;
gradients pass the rounding as if it were not there, and end where a value was clamped.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
Only Inference": asymmetric levels for activations, symmetric ones for each output channel's
weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from codefend.models.purifier.folded import can_be_folded, folded
from codefend.models.purifier.purifier import Purifier
from codefend.models.purifier.ranges import RANGES_NAME, Ranges
from codefend.models.purifier.strengths import levels_by_strength

__all__ = ["eight_bit", "measured_ranges"]

_LEVELS = 255
_WEIGHT_LEVELS = 127
_EXACT = ("conv_in", "conv_out")


@torch.no_grad()
def measured_ranges(purifier: Purifier, batches: Iterable[Tensor], generator: Generator) -> Ranges:
    """Purifies pictures at every strength, and notes what each convolution reads.

    Args:
        purifier: A pixel purifier.
        batches: (B, 3, H, W) in [0, 1] each: such as are purified in use, attacked ones among them.
        generator: Of the noise.

    Raises:
        ValueError: It is of another kind.
    """
    found: dict[str, tuple[float, float]] = {}

    def note(name: str, values: Tensor) -> None:
        low, high = found.get(name, (0.0, 0.0))  # zero is a level of its own: padding stays exact
        found[name] = (min(low, float(values.min())), max(high, float(values.max())))

    observed = folded(purifier)
    config = purifier.config
    all_levels = sorted(set(levels_by_strength(config.noise_level, config.num_steps).values()))
    for name, conv in _convolutions(observed):
        conv.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
    for images in batches:
        for levels in all_levels:
            observed.purify(images, generator, noise_level=levels[0], num_steps=len(levels))
    return found


def eight_bit(purifier: Purifier, ranges: Ranges) -> Purifier:
    """The purifier with its network folded, and its convolutions in 8 bits.

    Args:
        purifier: A pixel purifier, in single precision; it is left as it is.
        ranges: Of `measured_ranges`.

    Raises:
        ValueError: It is of another kind, or the ranges are another network's.
    """
    rounded = folded(purifier)
    convolutions = dict(_convolutions(rounded))
    if convolutions.keys() != ranges.keys():
        raise ValueError(f"{RANGES_NAME} is of another network: measure its ranges again")
    for name, conv in convolutions.items():
        parent, _, own = name.rpartition(".")
        setattr(rounded.unet.get_submodule(parent), own, _Rounded(conv, *ranges[name]))
    return rounded


class _Rounded(nn.Module):
    """A convolution whose inputs and weights take 256 levels each."""

    weight_scale: Tensor
    weight_zero: Tensor

    def __init__(self, conv: nn.Conv2d, low: float, high: float) -> None:
        super().__init__()
        self.conv = conv
        self.scale = max(high - low, 1e-6) / _LEVELS
        self.zero = round(-low / self.scale)
        largest = conv.weight.detach().abs().amax((1, 2, 3)).clamp_min(1e-12)
        self.register_buffer("weight_scale", largest / _WEIGHT_LEVELS)
        self.register_buffer("weight_zero", torch.zeros(len(largest), dtype=torch.int32))

    def forward(self, images: Tensor) -> Tensor:
        conv, levels = self.conv, _WEIGHT_LEVELS
        images = torch.fake_quantize_per_tensor_affine(images, self.scale, self.zero, 0, _LEVELS)
        weight = torch.fake_quantize_per_channel_affine(
            conv.weight, self.weight_scale, self.weight_zero, 0, -levels, levels
        )
        padding = tuple(int(side) for side in conv.padding)
        return functional.conv2d(images, weight, conv.bias, conv.stride, padding)


def _convolutions(purifier: Purifier) -> Iterator[tuple[str, nn.Conv2d]]:
    """Those that are rounded, by name, in a folded purifier.

    Raises:
        ValueError: It is of a kind that is not folded.
    """
    if not can_be_folded(purifier):
        raise ValueError("only a pixel purifier runs in 8-bit integers")
    for name, module in purifier.unet.named_modules():
        if isinstance(module, nn.Conv2d) and name not in _EXACT:
            yield name, module
