"""A step of training as one CUDA graph: small layers, launched singly, leave the GPU waiting."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Step", "captured"]

_WARM_UPS = 3

Step = Callable[..., dict[str, Tensor]]


def captured(step: Step, examples: Sequence[Tensor]) -> Step:
    """``step`` as a CUDA graph, captured once and replayed; ``step`` itself where it cannot be.

    Args:
        step: Takes tensors of fixed shapes, gives tensors, and may leave gradients in parameters.
            It draws its noise from the device's default generator and never waits for the device.
        examples: Its arguments, on the device. ``step`` is run on them a few times.

    Returns:
        A function of the same arguments, whose results the next call overwrites.
    """
    if not all(example.is_cuda for example in examples):
        return step
    inputs = [example.clone() for example in examples]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            step(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = step(*inputs)
    except RuntimeError as error:
        warnings.warn(f"not captured, hence slower: {error}", stacklevel=2)
        return step

    def replay(*arguments: Tensor) -> dict[str, Tensor]:
        for held, fresh in zip(inputs, arguments, strict=True):
            held.copy_(fresh, non_blocking=True)
        graph.replay()
        return outputs

    return replay
