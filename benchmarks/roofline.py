"""How fast a network could run on a device: the roofline of its layers (Williams et al. 2009).

A layer cannot take less time than its arithmetic at the device's peak, nor than its memory traffic
at the device's bandwidth; both are measured, in the run whose timings they are compared with.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

__all__ = ["DeviceLimits", "LayerCost", "measure_limits", "roofline_s", "walk_layers"]

_NORMS = {
    torch.ops.aten.native_group_norm,
    torch.ops.aten.native_layer_norm,
    torch.ops.aten.native_batch_norm,
}
# Whole, as kernels run it: what lies between its two products need never be written.
_ATTENTION = torch.ops.aten.scaled_dot_product_attention
# Sides of the square matrices and bytes of the copied memory: so large that nothing else counts,
# and that no cache holds them.
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
_TRIES = 8


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What one operation of a network costs, however it is run.

    Attributes:
        name: Of the operation, as `convolution`.
        flops: Additions and multiplications, each counted.
        num_bytes: Read and written once: inputs, parameters and outputs.
        is_fusible: Whether a neighbour could do it on the way: it is neither a product nor a norm.
    """

    name: str
    flops: int
    num_bytes: int
    is_fusible: bool


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What a device was seen to reach.

    Attributes:
        flops_per_s: In a product of large matrices.
        bytes_per_s: In a copy of large memory, reading and writing counted.
    """

    flops_per_s: float
    bytes_per_s: float


def walk_layers(network: nn.Module, *inputs: Tensor) -> list[LayerCost]:
    """The costs of all operations of one forward pass, in order.

    Args:
        network: Is called on the inputs once. On the device `meta` nothing is computed.
        inputs: Its arguments, on its device.
    """
    walk = _Walk()
    with torch.inference_mode(), walk:
        network(*inputs)
    return walk.layers


def roofline_s(layers: Iterable[LayerCost], limits: DeviceLimits, *, fused: bool = True) -> float:
    """Σ over layers of max(FLOPs ÷ peak, bytes ÷ bandwidth), in seconds.

    Args:
        layers: Of `walk_layers`.
        limits: Of the device.
        fused: Whether what is fusible costs nothing: what no compiler can beat. Otherwise each
            operation reads and writes its own memory, as if run one by one.
    """
    return sum(
        max(layer.flops / limits.flops_per_s, layer.num_bytes / limits.bytes_per_s)
        for layer in layers
        if not (fused and layer.is_fusible)
    )


def measure_limits(device: torch.device, dtype: torch.dtype) -> DeviceLimits:
    """Measures a device: the best of several tries, for anything that disturbs only slows down.

    Args:
        device: A CPU, with torch's present threads, or a CUDA device.
        dtype: Of the matrices.
    """
    side = _MATRIX_SIDE[device.type]
    factor = torch.rand((side, side), device=device).to(dtype)
    product = torch.empty_like(factor)
    source = torch.ones(_COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    multiply_s = _best_s(lambda: torch.mm(factor, factor, out=product), device)
    copy_s = _best_s(lambda: target.copy_(source), device)
    return DeviceLimits(2 * side**3 / multiply_s, 2 * source.numel() / copy_s)


def _best_s(run: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_TRIES):
        _wait(device)
        started_s = time.perf_counter()
        run()
        _wait(device)
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Walk(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation that moves or computes anything."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[LayerCost] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = func.overloadpacket
        if operation is torch.ops.aten.dropout:
            return args[0]  # decomposed it would be a copy; at inference nothing drops out
        if operation not in {*flop_registry, *_NORMS, _ATTENTION}:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if func.is_view or operation is torch.ops.aten._unsafe_view:
            return out
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        self.layers.append(
            LayerCost(
                name=str(operation).removeprefix("aten."),
                flops=_flops_of(operation, args, kwargs, out),
                num_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
                is_fusible=operation not in {*flop_registry, *_NORMS, _ATTENTION},
            )
        )
        return out


def _flops_of(operation: Any, args: Any, kwargs: Any, out: Any) -> int:
    if operation is _ATTENTION:
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))  # type: ignore[no-untyped-call]
    count = flop_registry.get(operation)
    return 0 if count is None else int(count(*args, **kwargs, out_val=out))
