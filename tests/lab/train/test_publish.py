"""What is listed stays true when weights are packed, and when they are published anew."""

import pytest
import torch

from codefend.lab.errors import LabError
from codefend.lab.train.publish import pack_published, publish_purifier, publish_ranges
from codefend.models.manifest import read_manifest, verify_weights, weights_sha256
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.ranges import RANGES_NAME, read_ranges


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    publish(tmp_path / "weights", 0)
    return tmp_path / "weights"


def publish(weights, seed):
    network = PurificationPipeline.tiny(seed).unet
    publish_purifier(network, name="net", version="1", noise_level=0.1, weights=weights)


def parameters(folder):
    return torch.cat(
        [value.flatten() for value in load_purifier(folder).unet.state_dict().values()]
    )


@pytest.mark.parametrize("to_int8", [False, True])
def test_packed_weights_are_listed_and_load(weights, to_int8):
    (before,) = read_manifest(weights)
    sha256, plain = weights_sha256(weights / "net"), parameters(weights / "net")
    pack_published("net", to_int8=to_int8, weights=weights)
    (after,) = read_manifest(weights)
    assert not list(verify_weights(after, weights))
    assert after.size_bytes < before.size_bytes
    assert (after.command, after.figures) == (before.command, before.figures)
    assert (weights_sha256(weights / "net") == sha256) is not to_int8
    assert torch.allclose(parameters(weights / "net"), plain, atol=0.01 if to_int8 else 0)


def test_weights_published_anew_replace_packed_ones(weights):
    pack_published("net", to_int8=False, weights=weights)
    publish(weights, 1)
    (entry,) = read_manifest(weights)
    assert not list(verify_weights(entry, weights))
    assert not list(weights.rglob("*.xz"))
    expected = PurificationPipeline.tiny(1).unet.state_dict()
    shown = load_purifier(weights / "net").unet.state_dict()
    assert all(torch.allclose(shown[name], value, atol=1e-3) for name, value in expected.items())


def test_weights_that_are_not_listed_are_named(weights):
    with pytest.raises(LabError, match="no weights called other"):
        pack_published("other", to_int8=False, weights=weights)


def test_ranges_are_listed_with_their_weights_and_leave_with_them(tmp_path, world):
    network = PurificationPipeline.tiny(0).unet
    publish_purifier(network, name="net", version="1", noise_level=0.1, weights=tmp_path)
    publish_ranges(tmp_path / "net", world, 12, 0)
    assert read_ranges(tmp_path / "net")
    (entry,) = read_manifest(tmp_path)
    assert RANGES_NAME in entry.sha256
    assert list(verify_weights(entry, tmp_path)) == []
    publish_purifier(network, name="net", version="2", noise_level=0.1, weights=tmp_path)
    assert read_ranges(tmp_path / "net") is None
