"""A network of any file format as nodes between named values: every value can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Graph", "Node", "average_pool", "convolve"]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator.

    Attributes:
        name: of the value it gives.
        inputs: names of the values it takes, in order.
        compute: from these values to its own, differentiably.
    """

    name: str
    inputs: tuple[str, ...]
    compute: Callable[..., Tensor]


class Graph(nn.Module):
    """Nodes in an order in which each one's inputs come before it.

    What depends on constants alone is computed once, when the graph is made. Constants are buffers:
    they move with the module and take no gradients.
    """

    def __init__(
        self, nodes: Sequence[Node], constants: Mapping[str, Tensor], *, input_name: str
    ) -> None:
        """Fold what is constant.

        Args:
            nodes: operators.
            constants: weights and other values of the file.
            input_name: what images are called in it.

        Raises:
            ValueError: A node takes a value that no node before it gives.
        """
        super().__init__()
        known = dict(constants)
        self.input_name = input_name
        self._nodes: dict[str, Node] = {}
        for node in nodes:
            unknown = [
                n for n in node.inputs if n not in {input_name, *known} and n not in self._nodes
            ]
            if unknown:
                raise ValueError(f"{node.name} takes {', '.join(unknown)}, which nothing gives")
            if all(name in known for name in node.inputs):
                known[node.name] = node.compute(*(known[name] for name in node.inputs))
            else:
                self._nodes[node.name] = node
        needed = {name for node in self._nodes.values() for name in node.inputs} & set(known)
        self._buffer_of = {name: f"constant_{index}" for index, name in enumerate(sorted(needed))}
        for name, buffer in self._buffer_of.items():
            self.register_buffer(buffer, known[name], persistent=False)

    def forward(self, images: Tensor, wanted: Sequence[str]) -> list[Tensor]:
        """The values of some nodes; nothing is computed that none of them depends on.

        Args:
            images: in the file's own layout.
            wanted: names of nodes.

        Raises:
            KeyError: for a name that no node has.
        """
        values = {self.input_name: images}
        for name in self._needed(wanted):
            node = self._nodes[name]
            values[name] = node.compute(*(self._value(i, values) for i in node.inputs))
        return [values[name] for name in wanted]

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = values[name] if name in values else self.get_buffer(self._buffer_of[name])
        return found

    def _needed(self, wanted: Sequence[str]) -> list[str]:
        needed: set[str] = set()
        waiting = list(wanted)
        while waiting:
            name = waiting.pop()
            if name in needed or name == self.input_name or name in self._buffer_of:
                continue
            needed.add(name)
            waiting += self._nodes[name].inputs
        return [name for name in self._nodes if name in needed]

    @property
    def device(self) -> torch.device:
        """Where the constants are."""
        return next(self.buffers()).device


def convolve(
    images: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    *,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """A convolution whose padding may be uneven; an even one is its own, which copies nothing.

    Args:
        images: (B, C, H, W).
        kernels: (out, C / groups, h, w).
        bias: (out,), or none.
        padding: left, right, top and bottom.
        stride: down and across.
        dilation: down and across.
        groups: of channels, each seen by kernels of its own.
    """
    left, right, top, bottom = padding
    even = (left, top) == (right, bottom)
    return F.conv2d(
        images if even else F.pad(images, (left, right, top, bottom)),
        kernels,
        bias,
        stride=tuple(stride),
        padding=(top, left) if even else 0,
        dilation=tuple(dilation),
        groups=groups,
    )


def average_pool(
    images: Tensor, kernel: Sequence[int], strides: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Averages in which padding never counts: sums are divided by how much was there.

    Args:
        images: (B, C, H, W).
        kernel: height and width.
        strides: down and across.
        padding: left, right, top and bottom.
    """
    if not any(padding):
        return F.avg_pool2d(images, tuple(kernel), tuple(strides))
    padded, there = (
        F.avg_pool2d(F.pad(values, tuple(padding)), tuple(kernel), tuple(strides))
        for values in (images, torch.ones_like(images[:1, :1]))
    )
    return padded / there
