"""Encoders see what they were trained on, and the held-out ones are never trained on."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from codefend.lab.encoders.encoder import (
    CLASSIFIERS,
    TRAINING_ENCODERS,
    load_any_classifier,
    load_encoder,
)
from codefend.lab.encoders.releases import DETECTOR, READER, RELEASES, RESNET, read_release
from codefend.lab.errors import LabError
from codefend.lab.victims.classifier import HELD_OUT


@pytest.mark.parametrize("name", TRAINING_ENCODERS)
def test_features_come_from_several_depths_and_carry_gradients(name, encoders_folder):
    encoder = load_encoder(name, folder=encoders_folder)
    images = torch.rand(2, 3, 96, 128, requires_grad=True)
    features = encoder.features_at(images, range(encoder.num_depths))
    assert len(features) == encoder.num_depths >= 4
    places = [f.shape[1] for f in features]
    assert places == sorted(places, reverse=True)
    assert places[-1] == 12
    (gradient,) = torch.autograd.grad(features[-1].square().sum(), images)
    assert float(gradient.abs().max()) > 0
    (alone,) = encoder.features_at(images.detach(), [1])
    assert torch.allclose(alone, features[1].detach(), atol=1e-5)


def test_the_resnet_reads_images_as_its_package_prepares_them(encoders_folder):
    (content,) = read_release(RESNET, encoders_folder).values()
    model = onnx.load_from_string(content)
    deepest = "Relu_48:0"
    model.graph.output.append(onnx.ValueInfoProto(name=deepest))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    levels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.float32)
    blue_first = np.ascontiguousarray(levels[..., ::-1] - np.array([104, 117, 123], np.float32))
    (wanted,) = session.run([deepest], {session.get_inputs()[0].name: blue_first})
    images = torch.from_numpy(levels).permute(0, 3, 1, 2) / 255
    (found,) = load_encoder(RESNET, folder=encoders_folder).features_at(images, [3])
    flat = wanted.reshape(1, 1024, -1).transpose(0, 2, 1)
    assert np.abs(found.numpy() - flat).max() <= 1e-4 * max(1.0, np.abs(flat).max())


@pytest.mark.parametrize("name", [HELD_OUT, DETECTOR, READER])
def test_held_out_networks_cannot_be_trained_on(name, encoders_folder):
    assert name not in TRAINING_ENCODERS
    with pytest.raises(LabError, match="held out"):
        load_encoder(name, folder=encoders_folder)


def test_the_detector_names_one_of_eighty_things(encoders_folder):
    detector = load_any_classifier(DETECTOR, folder=encoders_folder)
    logits = detector.logits(torch.rand(2, 3, 224, 224))
    assert logits.shape == (2, 80)
    assert torch.equal(detector.chances(logits), logits.sigmoid())


def test_an_unknown_classifier_is_refused():
    with pytest.raises(LabError, match="known: efficientnet-lite0"):
        load_any_classifier("resnet")
    assert set(CLASSIFIERS).isdisjoint({READER})


def test_a_file_that_is_not_the_known_one_is_refused(tmp_path):
    with pytest.raises(LabError, match="data encoders"):
        read_release(RESNET, tmp_path)
    (tmp_path / RESNET).mkdir()
    name = next(iter(RELEASES[RESNET].files)).split("/")[-1]
    (tmp_path / RESNET / name).write_bytes(b"other")
    with pytest.raises(LabError, match="not the file that is known"):
        read_release(RESNET, tmp_path)
