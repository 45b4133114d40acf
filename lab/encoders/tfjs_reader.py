"""Reads a TensorFlow.js graph model as a differentiable graph, without running any script.

Values keep TensorFlow's layout, (B, H, W, C); a convolution sees them as channels-last memory, so
nothing is copied.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.encoders.graph import Graph, Node, average_pool, convolve
from codefend.lab.errors import LabError

__all__ = ["packed_bytes", "packed_json", "read_tfjs"]

_STORED = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "uint8": "u1", "uint16": "<u2"}


def read_tfjs(
    model: Mapping[str, Any],
    weights: bytes,
    outputs: Sequence[str],
    *,
    replaced: Mapping[str, Tensor] | None = None,
) -> Graph:
    """The network of a graph model, as far as some of its values depend on it.

    Args:
        model: what its ``model.json`` holds.
        weights: all shards of its manifest, one after another.
        outputs: names of the values; of what only others need, such as the decoding of a
            detector's boxes, no operator has to be known.
        replaced: constants to be taken instead of the file's, such as sizes of inner resizes that
            hold for one size of image only.

    Raises:
        LabError: The model has an operator that is not read here, or weights are missing.
    """
    nodes = _needed(model["modelTopology"]["node"], outputs)
    constants = {**_constants(model["weightsManifest"], weights), **(replaced or {})}
    inputs = [node["name"] for node in nodes if node["op"] == "Placeholder"]
    operators = [node for node in nodes if node["op"] not in {"Const", "Placeholder"}]
    for node in operators:
        if "Conv" in node["op"]:
            name = node["input"][1]
            kernels = constants[name].permute(3, 2, 0, 1)  # (h, w, in, out) -> (out, in, h, w)
            if "Depthwise" in node["op"]:  # (h, w, in, multiplier) -> (in · multiplier, 1, h, w)
                kernels = kernels.transpose(0, 1).flatten(0, 1)[:, None]
            constants[f"{name}:kernels"] = kernels.contiguous()
    return Graph([_node(node) for node in operators], constants, input_name=inputs[0])


def packed_json(script: str) -> dict[str, Any]:
    """The object that a bundled script assigns to ``exports``: its literal is read, never run.

    Raises:
        LabError: There is none.
    """
    start = script.find(".exports={format")
    if start < 0:
        raise LabError("the script holds no TensorFlow.js model")
    literal = script[start + len(".exports=") :]
    words = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^{}\[\],:"\s]+')
    found: list[str] = []
    depth = 0
    for word in words.findall(literal):
        depth += {"{": 1, "}": -1}.get(word, 0)
        found.append(_as_json(word))
        if depth == 0:
            break
    model: dict[str, Any] = json.loads("".join(found))
    return model


def packed_bytes(script: str) -> bytes:
    """The bytes that a bundled script carries in base64."""
    longest = max(re.findall(r'"([A-Za-z0-9+/=]+)"', script), key=len)
    return base64.b64decode(longest)


def _as_json(word: str) -> str:
    if word[0] in '"{}[],:':
        return word
    if word in {"!0", "!1"}:
        return "true" if word == "!0" else "false"
    if re.fullmatch(r"-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", word):
        return repr(float(word)) if "." in word or "e" in word else word
    return json.dumps(word)


def _constants(manifest: Sequence[Mapping[str, Any]], weights: bytes) -> dict[str, Tensor]:
    """Weights by name; quantised ones become level × scale + min again."""
    constants: dict[str, Tensor] = {}
    offset = 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        quantised = entry.get("quantization", {})
        stored = np.dtype(_STORED[quantised.get("dtype", entry["dtype"])])
        num = int(np.prod(entry["shape"]))
        if offset + num * stored.itemsize > len(weights):
            raise LabError(f"the weights end before {entry['name']}")
        values = np.frombuffer(weights, stored, num, offset)
        offset += num * stored.itemsize
        if "scale" in quantised:
            values = values.astype(np.float32) * quantised["scale"] + quantised["min"]
        kind = np.float32 if entry["dtype"] == "float32" else np.int64
        constants[entry["name"]] = torch.from_numpy(values.astype(kind)).reshape(entry["shape"])
    return constants


def _needed(nodes: Sequence[Mapping[str, Any]], outputs: Sequence[str]) -> list[Mapping[str, Any]]:
    """What the outputs depend on, inputs first.

    Raises:
        LabError: There is no value of such a name.
    """
    by_name = {node["name"]: node for node in nodes}
    inputs: dict[str, list[str]] = {}
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name not in by_name:
            raise LabError(f"the model has no value {name}")
        if name not in inputs:
            inputs[name] = _inputs(by_name[name])
            waiting += inputs[name]
    return [by_name[name] for name in TopologicalSorter(inputs).static_order()]


def _inputs(node: Mapping[str, Any]) -> list[str]:
    """Names without the number of the output; a name after ^ only says what comes before."""
    return [name.split(":")[0] for name in node.get("input", ()) if not name.startswith("^")]


def _node(node: Mapping[str, Any]) -> Node:
    if node["op"] not in _OPERATORS:
        raise LabError(
            f"TensorFlow.js operator {node['op']} is not read: {', '.join(_OPERATORS)} are"
        )
    inputs = _inputs(node)
    if "Conv" in node["op"]:
        inputs[1] = f"{inputs[1]}:kernels"
    attributes = {key: _attribute(value) for key, value in node.get("attr", {}).items()}
    return Node(node["name"], tuple(inputs), partial(_OPERATORS[node["op"]], attributes))


def _attribute(value: Mapping[str, Any]) -> Any:
    """Numbers are written as text, texts in base64 or as lists of their codes."""
    if "list" in value:
        return [_attribute({kind: v}) for kind, each in value["list"].items() for v in each]
    kind, content = next(iter(value.items()))
    if kind == "s":
        raw = base64.b64decode(content) if isinstance(content, str) else bytes(content)
        return raw.decode()
    return int(content) if kind == "i" else content


def _same(side: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's padding "SAME": what is left over goes behind."""
    reach = (kernel - 1) * dilation + 1
    total = max((-(-side // stride) - 1) * stride + reach - side, 0)
    return total // 2, total - total // 2


def _padding(attributes: Mapping[str, Any], images: Tensor, kernel: Sequence[int]) -> list[int]:
    """Left, right, top and bottom of (B, C, H, W)."""
    if attributes["padding"] != "SAME":
        return [0] * 4
    stride, dilation = attributes["strides"][1:3], attributes.get("dilations", [1] * 4)[1:3]
    return [
        places
        for axis in (1, 0)
        for places in _same(images.shape[2 + axis], kernel[axis], stride[axis], dilation[axis])
    ]


def _convolve(
    attributes: Mapping[str, Any],
    x: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    *,
    depthwise: bool,
) -> Tensor:
    images = x.permute(0, 3, 1, 2)
    found = convolve(
        images,
        kernels,
        bias,
        padding=_padding(attributes, images, kernels.shape[2:]),
        stride=attributes["strides"][1:3],
        dilation=attributes.get("dilations", [1] * 4)[1:3],
        groups=x.shape[3] if depthwise else 1,
    )
    return _activated(attributes, found.permute(0, 2, 3, 1))


def _activated(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """What is fused behind the bias."""
    for name in attributes.get("fused_ops", ()):
        x = _ACTIVATIONS[name](x)
    return x


def _matmul(attributes: Mapping[str, Any], x: Tensor, weights: Tensor, *bias: Tensor) -> Tensor:
    return _activated(attributes, F.linear(x, weights.T, *bias))


def _average(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    """Where it is padded, padding does not count."""
    kernel, strides, images = attributes["ksize"][1:3], attributes["strides"][1:3], x.movedim(3, 1)
    padding = _padding(attributes, images, kernel)
    return average_pool(images, kernel, strides, padding).permute(0, 2, 3, 1)


def _resize(attributes: Mapping[str, Any], x: Tensor, size: Tensor) -> Tensor:
    """Bilinear as TensorFlow 1 did it: place i reads from i · (old side / new side)."""
    if attributes.get("align_corners") or attributes.get("half_pixel_centers"):
        raise LabError("ResizeBilinear with align_corners or half_pixel_centers is not read")
    for axis, new in zip((1, 2), size.tolist(), strict=True):
        old = x.shape[axis]
        places = torch.arange(new, device=x.device) * (old / new)
        low = places.long()
        share = (places - low).to(x).reshape([-1 if a == axis else 1 for a in range(4)])
        following = x.index_select(axis, (low + 1).clamp_max(old - 1))
        x = torch.lerp(x.index_select(axis, low), following, share)
    return x


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "BiasAdd": lambda x: x,
    "Relu": torch.relu,
    "Relu6": F.relu6,
}

_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda _, a, b: a + b,
    "AddV2": lambda _, a, b: a + b,
    "AvgPool": _average,
    "ConcatV2": lambda _, *values: torch.cat(values[:-1], dim=int(values[-1])),
    "Conv2D": partial(_convolve, depthwise=False),
    "DepthwiseConv2dNative": partial(_convolve, depthwise=True),
    "FusedDepthwiseConv2dNative": partial(_convolve, depthwise=True),
    "Identity": lambda _, x: x,
    "Mean": lambda attributes, x, axes: x.mean(
        dim=axes.reshape(-1).tolist(), keepdim=bool(attributes.get("keep_dims"))
    ),
    "Mul": lambda _, a, b: a * b,
    "Relu": lambda _, x: x.relu(),
    "Relu6": lambda _, x: F.relu6(x),
    "ResizeBilinear": _resize,
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Softmax": lambda _, x: x.softmax(dim=-1),
    "Squeeze": lambda attributes, x: x.squeeze(tuple(attributes.get("squeeze_dims", ()))),
    "Sub": lambda _, a, b: a - b,
    "_FusedConv2D": partial(_convolve, depthwise=False),
    "_FusedMatMul": _matmul,
}
