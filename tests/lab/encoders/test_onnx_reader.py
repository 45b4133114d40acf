"""What the reader computes is what ONNX Runtime computes, operator by operator and as a whole."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from codefend.lab.encoders.onnx_reader import read_onnx
from codefend.lab.encoders.releases import READER, RESNET, read_release
from codefend.lab.errors import LabError

NEAR = 1e-4
RNG = np.random.default_rng(0)


def model_of(op, attributes, *weights, side=9):
    """One operator on an image (2, 4, side, side)."""
    names = [f"w{index}" for index in range(len(weights))]
    node = helper.make_node(op, ["x", *names], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, name) for name, w in zip(names, weights, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    return model.SerializeToString()


def kernels(out, into, height, width):
    return RNG.normal(size=(out, into, height, width)).astype(np.float32)


def row(num):
    return RNG.uniform(0.5, 1.5, num).astype(np.float32)


OPERATORS = {
    "strided": ("Conv", {"strides": [2, 1], "pads": [1, 1, 1, 1]}, kernels(6, 4, 3, 3), row(6)),
    "uneven": ("Conv", {"pads": [0, 2, 1, 0]}, kernels(6, 4, 3, 3)),
    "grouped": ("Conv", {"group": 4, "dilations": [2, 2]}, kernels(4, 1, 3, 3), row(4)),
    "largest": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    "average": ("AveragePool", {"kernel_shape": [3, 2], "strides": [3, 2]}),
    "padded average": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "normalised": ("BatchNormalization", {"epsilon": 1e-3}, row(4), row(4), row(4), row(4)),
    "hard sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "softmax over all that follows": ("Softmax", {"axis": 1}),
    "mean": ("ReduceMean", {"axes": [2, 3], "keepdims": 1}),
    "mean without axes left": ("ReduceMean", {"axes": [2, 3], "keepdims": 0}),
    "transposed": ("Transpose", {"perm": [0, 2, 3, 1]}),
    "unsqueezed": ("Unsqueeze", {"axes": [0, 3]}),
    "reshaped": ("Reshape", {}, np.array([0, -1], np.int64)),
    "error function": ("Erf", {}),
    "rectified": ("Relu", {}),
    "divided": ("Div", {}, np.float32(3.0).reshape(1)),
    "multiplied": ("MatMul", {}, RNG.normal(size=(9, 5)).astype(np.float32)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_what_onnx_runtime_gives(name):
    op, attributes, *weights = OPERATORS[name]
    content = model_of(op, attributes, *weights)
    image = RNG.normal(size=(2, 4, 9, 9)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(content).run(None, {"x": image})
    (found,) = read_onnx(content)(torch.from_numpy(image), ["y"])
    assert found.shape == wanted.shape
    assert np.abs(found.numpy() - wanted).max() <= NEAR


@pytest.mark.parametrize(
    ("name", "shape", "scale"),
    [(RESNET, (2, 224, 224, 3), 60.0), (READER, (2, 3, 48, 320), 0.5)],
)
def test_a_released_network_gives_what_onnx_runtime_gives(name, shape, scale, encoders_folder):
    (content,) = read_release(name, encoders_folder).values()
    images = (scale * RNG.normal(size=shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(content)
    (wanted,) = session.run(None, {session.get_inputs()[0].name: images})
    output = session.get_outputs()[0].name
    (found,) = read_onnx(content)(torch.from_numpy(images), [output])
    assert np.abs(found.numpy() - wanted).max() <= NEAR


def test_gradients_are_those_of_differences():
    content = model_of("Conv", {"strides": [2, 2], "pads": [1, 1, 0, 0]}, kernels(3, 4, 3, 3))
    graph = read_onnx(content).double()
    image = torch.randn(2, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: graph(x, ["y"])[0], image)


def test_what_does_not_matter_is_not_computed(encoders_folder):
    (content,) = read_release(READER, encoders_folder).values()
    graph = read_onnx(content)
    first = next(iter(graph._nodes))
    image = torch.zeros(1, 3, 48, 7)  # too narrow for the last pooling
    (found,) = graph(image, [first])
    assert found.shape[0] == 1
    with pytest.raises(RuntimeError):
        graph(torch.zeros(1, 3, 2, 2), ["fetch_name_0"])


def test_an_unknown_operator_is_named():
    with pytest.raises(LabError, match="operator Sin is not read"):
        read_onnx(model_of("Sin", {}))


def test_automatic_padding_is_refused():
    content = model_of("Conv", {"auto_pad": "SAME_UPPER"}, kernels(3, 4, 3, 3))
    with pytest.raises(LabError, match="auto_pad"):
        read_onnx(content)


def test_half_precision_weights_compute_in_single(encoders_folder):
    half = RNG.normal(size=(3, 4, 3, 3)).astype(np.float16)
    graph = onnx.load_from_string(model_of("Conv", {}, half.astype(np.float32)))
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(half, "w0"))
    (found,) = read_onnx(graph.SerializeToString())(torch.ones(1, 4, 9, 9), ["y"])
    assert found.dtype == torch.float32
