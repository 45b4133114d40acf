"""What the reader computes is what TensorFlow.js computed for the same images, once, and kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from codefend.lab.encoders.encoder import DETECTOR_LOGITS, detector_graph, mobilenet_graph
from codefend.lab.encoders.tfjs_reader import packed_bytes, packed_json, read_tfjs
from codefend.lab.errors import LabError

KNOWN = json.loads((Path(__file__).parent / "tfjs_outputs.json").read_text())
SCOPE = (
    "StatefulPartitionedCall/sequential/keras_layer/StatefulPartitionedCall/"
    "StatefulPartitionedCall/StatefulPartitionedCall/predict/MobilenetV2/"
)


def wave(shape, low, high):
    """The image of ``tfjs_outputs.cjs``."""
    place = np.arange(np.prod(shape))
    values = low + (high - low) * (0.5 + 0.5 * np.sin(0.001 * place * (1 + place % 3)))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def sample(values):
    flat = values.flatten()
    return flat[:: max(1, len(flat) // 40)][:40]


def assert_near(found, known):
    """To 1e-4 of the largest value: features are tens, and both sides round in single precision."""
    wanted = torch.tensor(known)
    assert float((sample(found) - wanted).abs().max()) <= 1e-4 * max(1.0, float(wanted.abs().max()))


def test_mobilenet_gives_what_tensorflow_js_gives(encoders_folder):
    names = {"expanded_conv_5/add": SCOPE, "Conv_1/Relu6": SCOPE, "Identity": ""}
    outputs = [scope + name for name, scope in names.items()]
    graph = mobilenet_graph(encoders_folder, outputs)
    for name, found in zip(names, graph(wave((1, 224, 224, 3), 0, 1), outputs), strict=True):
        assert_near(found, KNOWN[name])


def test_centernet_gives_what_tensorflow_js_gives(encoders_folder):
    (found,) = detector_graph(encoders_folder)(wave((1, 512, 512, 3), 0, 255), [DETECTOR_LOGITS])
    assert found.shape == (1, 128, 128, 80)
    assert_near(found, KNOWN[DETECTOR_LOGITS])


def test_centernet_reads_other_sizes(encoders_folder):
    graph = detector_graph(encoders_folder, 256)
    (found,) = graph(wave((2, 256, 256, 3), 0, 255), [DETECTOR_LOGITS])
    assert found.shape == (2, 64, 64, 80)


def model(op, *, inputs=("x",), constants=(), **attributes):
    nodes = [{"name": "x", "op": "Placeholder"}]
    nodes += [{"name": name, "op": "Const"} for name, *_ in constants]
    nodes.append({"name": "y", "op": op, "input": list(inputs), "attr": attributes})
    weights = [
        {"name": name, "shape": list(values.shape), "dtype": kind}
        for name, kind, values in constants
    ]
    topology = {"modelTopology": {"node": nodes}, "weightsManifest": [{"weights": weights}]}
    return topology, b"".join(values.tobytes() for *_, values in constants)


def test_a_resize_reads_from_where_tensorflow_1_did():
    size = ("size", "int32", np.array([4, 2], np.int32))
    graph = read_tfjs(*model("ResizeBilinear", inputs=("x", "size"), constants=(size,)), ["y"])
    (found,) = graph(torch.tensor([0.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 2, 1), ["y"])
    assert found[0, :, 0, 0].tolist() == [0.0, 1.0, 2.0, 2.0]


def test_same_padding_puts_what_is_left_over_behind():
    kernel = ("k", "float32", np.ones((3, 3, 1, 1), np.float32))
    attributes = {
        "padding": {"s": "U0FNRQ=="},
        "strides": {"list": {"i": ["1", "2", "2", "1"]}},
    }
    made = model("Conv2D", inputs=("x", "k"), constants=(kernel,), **attributes)
    (found,) = read_tfjs(*made, ["y"])(torch.ones(1, 4, 4, 1), ["y"])
    assert found[0, :, :, 0].tolist() == [[9.0, 6.0], [6.0, 4.0]]


def test_an_unknown_operator_is_named_only_where_it_is_needed():
    topology, weights = model("NonMaxSuppressionV3")
    with pytest.raises(LabError, match="NonMaxSuppressionV3 is not read"):
        read_tfjs(topology, weights, ["y"])
    with pytest.raises(LabError, match="no value z"):
        read_tfjs(topology, weights, ["z"])


def test_weights_that_end_early_are_refused():
    kernel = ("k", "float32", np.ones((3, 3, 1, 1), np.float32))
    topology, weights = model("Mul", inputs=("x", "k"), constants=(kernel,))
    with pytest.raises(LabError, match="the weights end before k"):
        read_tfjs(topology, weights[:-4], ["y"])


def test_a_bundled_literal_is_read_and_not_run():
    script = '!function(){t.exports={format:"graph-model",a:[.5,-1e-3,3,!0,!1],"b":{c:"x{\\"y"}}}'
    read = packed_json(script)
    assert read == {
        "format": "graph-model",
        "a": [0.5, -0.001, 3, True, False],
        "b": {"c": 'x{"y'},
    }
    assert packed_bytes('e("abc");exports="AQID";') == b"\x01\x02\x03"
    with pytest.raises(LabError, match=r"no TensorFlow\.js model"):
        packed_json("alert(1)")
