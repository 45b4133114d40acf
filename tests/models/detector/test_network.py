import pytest
import torch

from codefend.models.detector.network import SuspicionDetector


def pair(height=33, width=41, num=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(num, 3, height, width, generator=generator) for _ in range(2))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 41), (64, 128)])
def test_any_size_gives_one_score_an_image(size):
    scores = SuspicionDetector.tiny()(*pair(*size))
    assert scores.shape == (2,)
    assert scores.isfinite().all()


def test_scores_depend_on_the_upload_and_on_what_was_taken_out():
    detector = SuspicionDetector.tiny()
    images, purified = pair()
    score = detector(images, purified)
    assert not torch.equal(score, detector(images, images))
    assert not torch.equal(score, detector(purified, images))


def test_an_image_is_scored_alike_in_any_company():
    detector = SuspicionDetector.tiny()
    images, purified = pair(num=3)
    alone = torch.cat([detector(images[i : i + 1], purified[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(detector(images, purified), alone)


def test_an_attacker_finds_gradients():
    images, purified = pair()
    images.requires_grad_(True)
    (gradient,) = torch.autograd.grad(SuspicionDetector.tiny()(images, purified).sum(), images)
    assert (gradient.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_saved_and_loaded_it_scores_the_same_and_keeps_its_calibration(tmp_path):
    detector = SuspicionDetector.tiny()
    detector.register_to_config(clean_quantiles=[0.0, 1.0], version="7")
    detector.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = SuspicionDetector.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(*pair()), detector(*pair()))
    assert list(loaded.config.clean_quantiles) == [0.0, 1.0]
    assert loaded.config.version == "7"


@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (3, 8, 8), (2, 1, 8, 8)])
def test_what_is_no_pair_is_refused(shape):
    with pytest.raises(ValueError, match="no pair"):
        SuspicionDetector.tiny()(torch.rand(2, 3, 8, 8), torch.rand(shape))
