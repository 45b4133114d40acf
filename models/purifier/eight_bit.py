"""A pixel purifier in 8-bit integers, for processors that multiply them four times as fast.

What each convolution reads and its weights become 256 levels; what is added, and the first and the
last convolution, stay as they are. Torch computes with the levels' values, so that what is measured
and attacked in the laboratory is what OpenVINO runs in whole numbers; gradients pass the rounding
as if it were not there, and end where a value was clamped.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
Only Inference": asymmetric levels for activations, symmetric ones for each output channel's
weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from codefend.models.manifest import weights_sha256
from codefend.models.purifier.folded import UpsamplingConv, folded
from codefend.models.purifier.purifier import Purifier

__all__ = ["RANGES_NAME", "Ranges", "eight_bit", "measured_ranges", "read_ranges", "write_ranges"]

RANGES_NAME = "int8.json"
"""Of the file beside the weights that holds the ranges."""

Ranges = Mapping[str, tuple[float, float]]
"""Lowest and highest value that a convolution reads, by its name in the network."""

_LEVELS = 255
_WEIGHT_LEVELS = 127
_EXACT = ("conv_in", "conv_out")


def read_ranges(folder: Path) -> Ranges | None:
    """The ranges that were measured for a folder's weights; None where none were.

    Raises:
        ValueError: They are malformed, or of other weights than lie there now.
    """
    file = folder / RANGES_NAME
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        weights, ranges = found["weights"], found["ranges"]
        read = {str(name): (float(low), float(high)) for name, (low, high) in ranges.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} holds no ranges: {error}") from error
    if weights != weights_sha256(folder):
        raise ValueError(f"{file} is of other weights: measure it again, or remove it")
    return read


def write_ranges(folder: Path, ranges: Ranges) -> None:
    """Keeps ranges beside the weights that they were measured of."""
    rounded = {name: [round(low, 4), round(high, 4)] for name, (low, high) in ranges.items()}
    told = {"weights": weights_sha256(folder), "ranges": rounded}
    (folder / RANGES_NAME).write_text(json.dumps(told) + "\n", encoding="utf-8")


@torch.no_grad()
def measured_ranges(purifier: Purifier, batches: Iterable[Tensor], generator: Generator) -> Ranges:
    """Purifies pictures, and notes what each convolution reads.

    Args:
        purifier: A pixel purifier of one step.
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
    for name, conv in _convolutions(observed):
        conv.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
    for images in batches:
        observed.purify(images, generator)
    return found


def eight_bit(purifier: Purifier, ranges: Ranges) -> Purifier:
    """The purifier with its network folded, and its convolutions in 8 bits.

    Args:
        purifier: A pixel purifier of one step, in single precision; it is left as it is.
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

    def __init__(self, conv: nn.Conv2d | UpsamplingConv, low: float, high: float) -> None:
        super().__init__()
        self.conv = conv
        self.scale = max(high - low, 1e-6) / _LEVELS
        self.zero = round(-low / self.scale)
        # Output channels come second where a convolution is transposed.
        self.axis = int(isinstance(conv, UpsamplingConv))
        others = [axis for axis in range(4) if axis != self.axis]
        largest = conv.weight.detach().abs().amax(others).clamp_min(1e-12)
        self.register_buffer("weight_scale", largest / _WEIGHT_LEVELS)
        self.register_buffer("weight_zero", torch.zeros(len(largest), dtype=torch.int32))

    def forward(self, images: Tensor, _output_size: object = None) -> Tensor:
        images = torch.fake_quantize_per_tensor_affine(images, self.scale, self.zero, 0, _LEVELS)
        weight = torch.fake_quantize_per_channel_affine(
            self.conv.weight,
            self.weight_scale,
            self.weight_zero,
            self.axis,
            -_WEIGHT_LEVELS,
            _WEIGHT_LEVELS,
        )
        called: Tensor = functional_call(self.conv, {"weight": weight}, (images,))
        return called


def _convolutions(purifier: Purifier) -> Iterator[tuple[str, nn.Conv2d | UpsamplingConv]]:
    """Those that are rounded, by name, in a folded purifier.

    Raises:
        ValueError: It is of a kind that is not folded.
    """
    own = dict(purifier.unet.named_modules())
    if not any(isinstance(module, UpsamplingConv) for module in own.values()):
        raise ValueError("only a pixel purifier of one step runs in 8-bit integers")
    for name, module in own.items():
        if isinstance(module, nn.Conv2d | UpsamplingConv) and name not in _EXACT:
            yield name, module
