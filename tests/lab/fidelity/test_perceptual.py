"""The perceptual distance on features that can be worked out by hand."""

import numpy as np
import pytest
import torch

from codefend.lab.fidelity.probe import PerceptualDistance, perceptual_distance


def test_equal_images_are_at_zero(photos):
    assert (
        perceptual_distance(lambda x: [x, x[..., ::2, ::2]], photos, photos).tolist() == [0.0] * 3
    )


def test_opposed_features_are_at_four_and_orthogonal_ones_at_two():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    green = torch.tensor([0.0, 7.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)

    def features(images):
        return [images]

    assert perceptual_distance(features, red, green).item() == pytest.approx(2.0)
    assert perceptual_distance(features, red, -3 * red).item() == pytest.approx(4.0)


def test_length_does_not_count_and_no_feature_is_no_direction():
    """Brightness alone changes nothing; where all features vanish, nothing is divided by zero."""
    images = torch.rand(2, 3, 5, 5)
    assert perceptual_distance(lambda x: [x], images, 0.5 * images).max() < 1e-9
    dark = torch.zeros(1, 3, 5, 5)
    assert perceptual_distance(lambda x: [x], dark, dark).item() == 0.0


def test_places_are_averaged_and_then_layers():
    """A quarter of the places differ in the first map (2 each), none in the second."""
    one = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    other = one.clone()
    other[0, :, 0, 0] = torch.tensor([0.0, 1.0, 0.0])

    def features(images):
        return [images, torch.ones(len(images), 8, 1, 1)]

    assert perceptual_distance(features, one, other).item() == pytest.approx(0.25)


def test_more_noise_is_farther(photos):
    generator = torch.Generator().manual_seed(0)
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.normal_(generator=generator)
    noise = torch.randn(photos.shape, generator=generator)
    distances = [
        perceptual_distance(lambda x: [convolution(x).relu()], photos + size * noise, photos)
        for size in (0.02, 0.1, 0.3)
    ]
    assert (distances[0] < distances[1]).all()
    assert (distances[1] < distances[2]).all()


def test_wrong_uses_are_refused(photos):
    with pytest.raises(ValueError, match="shapes differ"):
        perceptual_distance(lambda x: [x], photos, photos[:1])
    with pytest.raises(ValueError, match="no feature map"):
        perceptual_distance(lambda x: [], photos, photos)


def test_pictures_as_bytes():
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 200
    other = np.zeros_like(image)
    other[..., 1] = 90
    distance = PerceptualDistance("colours", lambda images: [images])
    assert distance(image, image) == 0.0
    assert distance(image, other) == pytest.approx(2.0)
