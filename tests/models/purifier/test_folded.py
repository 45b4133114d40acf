import pytest
import torch
from torch import nn
from torch.nn import functional

from codefend.models.purifier.denoiser import denoise
from codefend.models.purifier.folded import UpsamplingConv, folded
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.pipeline import PurificationPipeline


@pytest.fixture
def pictures():
    return torch.rand((2, 3, 40, 56), generator=torch.Generator().manual_seed(1))


def restless(seed, **config):
    """A pipeline of which every parameter matters, those of the time embedding among them."""
    pipeline = PurificationPipeline.tiny(seed)
    pipeline.register_to_config(**config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return pipeline


def purified(pipeline, pictures, **options):
    return pipeline.purify(pictures, torch.Generator().manual_seed(2), **options)


@pytest.mark.parametrize("options", [{}, {"noise_level": 0.5}, {"num_steps": 2}])
def test_it_computes_the_same_at_every_level(pictures, options):
    pipeline = restless(3, noise_level=0.05)
    before = purified(pipeline, pictures, **options)
    found = purified(folded(pipeline), pictures, **options)
    assert torch.allclose(found, before, atol=1e-5)
    assert torch.equal(purified(pipeline, pictures, **options), before), "it is as it was"


def test_the_level_matters(pictures):
    found = folded(restless(3))
    assert not torch.allclose(
        denoise(found.unet, pictures, 0.05), denoise(found.unet, pictures, 0.5), atol=1e-3
    )


def test_a_flat_picture_is_no_division_by_nothing():
    flat = torch.full((1, 3, 64, 64), 0.5)
    pipeline = restless(3)
    assert torch.allclose(purified(folded(pipeline), flat), purified(pipeline, flat), atol=1e-5)


def test_blocks_of_another_make_are_left_as_they_are(pictures):
    pipeline = restless(3)
    block = pipeline.unet.down_blocks[0].resnets[0]
    block.output_scale_factor = 2.0
    found = folded(pipeline)
    assert type(found.unet.down_blocks[0].resnets[0]) is type(block)
    assert torch.allclose(purified(found, pictures), purified(pipeline, pictures), atol=1e-5)


def test_other_kinds_are_left_as_they_are():
    purifier = LatentPurificationPipeline.tiny()
    assert folded(purifier) is purifier


def test_enlarging_and_convolving_is_one_convolution(pictures):
    conv = nn.Conv2d(3, 5, 3, padding=1)
    enlarged = functional.interpolate(pictures, scale_factor=2.0, mode="nearest")
    with torch.no_grad():
        assert torch.allclose(UpsamplingConv(conv)(pictures), conv(enlarged), atol=1e-5)
