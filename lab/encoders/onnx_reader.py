"""Reads an ONNX file as a differentiable graph: the operators that our encoders are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.encoders.graph import Graph, Node, average_pool, convolve
from codefend.lab.errors import LabError

__all__ = ["read_onnx"]

Attributes = Mapping[str, Any]


def read_onnx(content: bytes) -> Graph:
    """The network of an ONNX file (opset 9 to 12), its values in single precision.

    Args:
        content: of a file whose weights are inside it.

    Raises:
        LabError: The file has an operator, or an attribute, that is not read here.
    """
    model = onnx.load_from_string(content)
    constants = {
        each.name: _single(torch.from_numpy(onnx.numpy_helper.to_array(each).copy()))
        for each in model.graph.initializer
    }
    inputs = [each.name for each in model.graph.input if each.name not in constants]
    nodes = [_node(each) for each in model.graph.node]
    return Graph(nodes, constants, input_name=inputs[0])


def _single(values: Tensor) -> Tensor:
    """Half precision is how some files store weights, never how they compute."""
    return values.float() if values.is_floating_point() else values


def _node(node: onnx.NodeProto) -> Node:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type not in _OPERATORS:
        raise LabError(f"ONNX operator {node.op_type} is not read: {', '.join(_OPERATORS)} are")
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or attributes.get("ceil_mode"):
        raise LabError(f"ONNX node {node.output[0]} has auto_pad or ceil_mode, which are not read")
    compute = partial(_OPERATORS[node.op_type], attributes)
    return Node(node.output[0], tuple(node.input), compute)


def _padding(attributes: Attributes) -> tuple[int, int, int, int]:
    """ONNX's (top, left, bottom, right) as torch's (left, right, top, bottom)."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return left, right, top, bottom


def _convolve(
    attributes: Attributes, images: Tensor, kernels: Tensor, bias: Tensor | None = None
) -> Tensor:
    return convolve(
        images,
        kernels,
        bias,
        padding=_padding(attributes),
        stride=attributes.get("strides", (1, 1)),
        dilation=attributes.get("dilations", (1, 1)),
        groups=int(attributes.get("group", 1)),
    )


def _largest(attributes: Attributes, images: Tensor) -> Tensor:
    padded = F.pad(images, _padding(attributes), value=-torch.inf)
    return F.max_pool2d(padded, attributes["kernel_shape"], attributes.get("strides", (1, 1)))


def _average(attributes: Attributes, images: Tensor) -> Tensor:
    """Padding never counts (``count_include_pad`` 0)."""
    strides = attributes.get("strides", (1, 1))
    return average_pool(images, attributes["kernel_shape"], strides, _padding(attributes))


def _normalise(attributes: Attributes, x: Tensor, *statistics: Tensor) -> Tensor:
    scale, bias, mean, variance = statistics
    return F.batch_norm(x, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    scaled: Tensor = attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5)
    return scaled.clamp(0.0, 1.0)


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sides = [x.shape[i] if side == 0 else int(side) for i, side in enumerate(shape.tolist())]
    return x.reshape(sides)


def _softmax(attributes: Attributes, x: Tensor) -> Tensor:
    """Before opset 13 all axes from the given one on are one: equal where it is the last."""
    axis = attributes.get("axis", 1)
    flat = x.flatten(axis)
    return flat.softmax(dim=-1).reshape(x.shape)


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda _, a, b: a + b,
    "AveragePool": _average,
    "BatchNormalization": _normalise,
    "Cast": lambda _, x: _single(x),
    "Conv": _convolve,
    "Div": lambda _, a, b: a / b,
    "Erf": lambda _, x: torch.erf(x),
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda _, x: x,
    "MatMul": lambda _, a, b: a @ b,
    "MaxPool": _largest,
    "Mul": lambda _, a, b: a * b,
    "ReduceMean": lambda attributes, x: x.mean(
        dim=tuple(attributes["axes"]), keepdim=bool(attributes.get("keepdims", 1))
    ),
    "Relu": lambda _, x: x.relu(),
    "Reshape": _reshape,
    "Softmax": _softmax,
    "Squeeze": lambda attributes, x: x.squeeze(tuple(attributes["axes"])),
    "Transpose": lambda attributes, x: x.permute(*attributes["perm"]),
    "Unsqueeze": lambda attributes, x: reduce(Tensor.unsqueeze, sorted(attributes["axes"]), x),
}
