"""Figures of unattacked images worked out by hand, with a reader that is no Tesseract."""

import numpy as np
import pytest
import torch
from PIL import Image

import codefend.lab.fidelity.probe
from codefend.lab.baselines.defence import NO_DEFENCE, Defence
from codefend.lab.documents.document import Document, TextLine
from codefend.lab.errors import LabError
from codefend.lab.experiments.store import Store
from codefend.lab.fidelity.probe import FidelityProbe, PerceptualDistance
from codefend.lab.fidelity.report import unattacked_rows
from codefend.lab.fidelity.samples import (
    document_samples,
    folder_samples,
    photo_samples,
    scene_samples,
)
from codefend.lab.reading import Word

BOX = (0, 0, 16, 16)


class Darkness:
    """Reads "light" on light pictures and, without its last letter, "ligh" on darker ones."""

    name = "darkness 1"
    num_read = 0

    def __call__(self, image, *, text_size_px):
        self.num_read += 1
        return [Word("light" if image.mean() > 128 else "ligh", BOX)]


def document(kind, size_px, index, level=200):
    image = np.full((16, 16, 3), level, np.uint8)
    image[0, 0] = index + 10 * len(kind)  # two documents are never the same picture
    return Document(image, (TextLine("light", BOX),), kind, size_px, index)


DOCUMENTS = [
    document(kind, size_px, index, level=200 if size_px == 24 else 140)
    for kind in ("page", "screen")
    for size_px in (12, 24)
    for index in (0, 1)
]
DARKER = Defence("darker", "by 20 levels", lambda x, g: (x - 20 / 255).clamp(0, 1))


def noisy(images, generator):
    return (images + 0.02 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


NOISE = Defence("noise", "0.02", noisy, is_random=True)


def figures(rows):
    return {(row.defence, row.task, row.metric): row for row in rows}


@pytest.fixture
def samples():
    images = [
        np.random.default_rng(i).integers(60, 190, (16, 16, 3), dtype=np.uint8) for i in range(3)
    ]
    return [*scene_samples(images), *document_samples(DOCUMENTS)]


def test_error_rates_by_kind_and_size(samples, tmp_path):
    rows = unattacked_rows(samples, [DARKER], FidelityProbe(Store(tmp_path), Darkness()))
    found = figures(rows)
    assert found["none", "text", "character_error_rate"].value == 0.0
    # Only the texts of 12 px fall below the reader's threshold: one letter of five is lost.
    assert found["darker", "text", "character_error_rate"].value == pytest.approx(0.1)
    assert found["darker", "text", "character_error_rate_rise:12px"].value == pytest.approx(0.2)
    assert found["darker", "text", "character_error_rate_rise:24px"].value == 0.0
    assert found["darker", "text", "character_error_rate_rise:page:12px"].value == pytest.approx(
        0.2
    )
    assert found["darker", "text", "character_error_rate_rise:page"].n == 4
    assert ("none", "text", "character_error_rate_rise") not in found
    assert ("none", "scene", "psnr_db") not in found


def test_likeness(samples, tmp_path):
    found = figures(unattacked_rows(samples, [DARKER], FidelityProbe(Store(tmp_path))))
    psnr = found["darker", "scene", "psnr_db"]
    assert psnr.value == pytest.approx(20 * np.log10(255 / 20))
    assert psnr.n == 3
    assert found["darker", "scene", "ssim"].value < 1.0
    assert {row.tier for row in found.values()} == {"clean"}
    assert not any("character" in metric for _, _, metric in found)


def test_pages_are_drawn_with_all_their_sizes(tmp_path):
    """Page 0 loses a letter in each of its sizes and page 1 none: two clusters, not twelve."""
    levels = {0: 140, 1: 200}
    texts = [document("page", size, i, levels[i]) for size in range(12, 18) for i in (0, 1)]
    rows = unattacked_rows(
        [*document_samples(texts)], [DARKER], FidelityProbe(Store(tmp_path), Darkness()), seeds=1
    )
    row = figures(rows)["darker", "text", "character_error_rate"]
    assert row.n == 12
    # A quarter of all resamples of two clusters hold one of them alone; of twelve hardly any would.
    assert (row.low, row.high) == (0.0, pytest.approx(0.2))


def test_what_was_misread_before_is_no_rise(tmp_path):
    texts = [document("page", 12, 0, level=100), document("page", 12, 1, level=200)]
    observe = FidelityProbe(Store(tmp_path), Darkness())
    found = figures(unattacked_rows([*document_samples(texts)], [DARKER], observe))
    assert found["none", "text", "character_error_rate"].value == pytest.approx(0.1)
    assert found["darker", "text", "character_error_rate"].value == pytest.approx(0.1)
    assert found["darker", "text", "character_error_rate_rise"].value == 0.0


def test_seeds_are_averaged_and_noise_is_the_images_own(samples, tmp_path):
    observe = FidelityProbe(Store(tmp_path))
    psnr = [observe(samples[0], NOISE, seed=seed).psnr_db for seed in range(3)]
    assert len(set(psnr)) == 3
    found = figures(unattacked_rows(samples[:1], [NOISE], observe, seeds=3))
    assert found["noise", "scene", "psnr_db"].value == pytest.approx(np.mean(psnr))
    assert found["noise", "scene", "psnr_db"].seeds == 3
    fresh = FidelityProbe(Store(tmp_path / "elsewhere"))
    backwards = [fresh(sample, NOISE, seed=0) for sample in reversed(samples)][-1]
    assert backwards.psnr_db == psnr[0]


def test_resume_does_nothing_again(samples, tmp_path, monkeypatch):
    reader = Darkness()
    observe = FidelityProbe(Store(tmp_path), reader)
    rows = unattacked_rows(samples, [DARKER, NOISE], observe, seeds=2)
    num_read = reader.num_read
    assert num_read == len(DOCUMENTS) * (1 + 1 + 2)

    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(codefend.lab.fidelity.probe, "defend", forbidden)
    assert unattacked_rows(samples, [DARKER, NOISE], observe, seeds=2) == rows
    assert reader.num_read == num_read


def test_another_reader_or_setting_is_another_observation(samples, tmp_path):
    text = samples[-1]
    FidelityProbe(Store(tmp_path), Darkness())(text, DARKER, seed=0)
    other = Darkness()
    other.name = "darkness 2"
    FidelityProbe(Store(tmp_path), other)(text, DARKER, seed=0)
    assert other.num_read == 1
    much = Defence("darker", "by 90 levels", lambda x, g: (x - 90 / 255).clamp(0, 1))
    dimmed = FidelityProbe(Store(tmp_path), other)(text, much, seed=0)
    assert dimmed.character_errors == 1


def test_a_perceptual_distance_where_there_is_one(samples, tmp_path):
    distance = PerceptualDistance("colours", lambda images: [images])
    found = figures(
        unattacked_rows(samples, [NOISE], FidelityProbe(Store(tmp_path), None, distance))
    )
    assert 0 < found["noise", "scene", "perceptual"].value < 0.1


def test_undefended_observations_compare_nothing(samples, tmp_path):
    observation = FidelityProbe(Store(tmp_path), Darkness())(samples[0], NO_DEFENCE, seed=0)
    assert (observation.psnr_db, observation.ssim, observation.character_errors) == (None,) * 3


def test_large_photos_are_cut_and_small_ones_kept(tmp_path):
    ramp = np.tile(np.arange(700, dtype=np.uint16)[None, :, None] // 3, (40, 1, 3))
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "wide.png")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "small.png")
    small, wide = folder_samples(tmp_path)
    assert small.image.shape == (20, 30, 3)
    assert wide.image.shape == (40, 512, 3)
    np.testing.assert_array_equal(wide.image, ramp[:, 94:606])


def test_photos_are_of_the_test_split(world):
    samples = photo_samples(world)
    assert len(samples) == len(world.photos["test"])
    assert all(sample.image.shape == (512, 512, 3) for sample in samples)


def test_folders_without_usable_photos_are_said_to_be_so(tmp_path):
    with pytest.raises(LabError, match="no images"):
        folder_samples(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(LabError, match="cannot be read"):
        folder_samples(tmp_path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "broken.png")
    with pytest.raises(LabError, match="smaller than 16"):
        folder_samples(tmp_path)
