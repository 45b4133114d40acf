"""One function of bytes and noise gives one picture, whoever runs it."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from codefend.models.converted import Compiled, converted
from codefend.models.purifier.denoiser import denoise
from codefend.models.purifier.graph import PurifierGraph
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_network import build_tiny_autoencoder
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.strengths import levels_by_strength
from codefend.service.settings import Settings
from tests.installed import needs_openvino

SIZES = [(1, 64, 64), (2, 128, 192), (5, 64, 320), (3, 192, 64)]


class Unrounded(PurifierGraph):
    """As floats, so that a difference far below one level is seen."""

    def forward(self, pixels, noise, levels):
        images = pixels.permute(0, 3, 1, 2).float() / 255
        return self.purifier.purify_given(images, self.steps_of(levels), noise.unbind(0))


def tiny_pixel():
    return PurificationPipeline.tiny(1)


def tiny_pixel_in_three_steps():
    pipeline = PurificationPipeline.tiny(2)
    pipeline.register_to_config(num_steps=3)
    return pipeline


def tiny_latent():
    pipeline = LatentPurificationPipeline.tiny(1)
    pipeline.register_to_config(num_steps=2, noise_level=0.2)
    return pipeline


def shipped():
    return load_purifier(Settings().purifier)


def some_batch(graph, num_images, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        0, 256, (num_images, height, width, 3), dtype=torch.uint8, generator=generator
    )
    noise = graph.draw_noise(num_images, height, width, generator)
    return pixels, noise, torch.tensor(graph.own_levels)


def openvino_of(graph):
    return Compiled(converted(graph, some_batch(graph, 2, 128, 64), {}).network)


def run(compiled, *tensors):
    return compiled(*(tensor.numpy() for tensor in tensors))


@pytest.mark.parametrize("make", [tiny_pixel, tiny_pixel_in_three_steps, tiny_latent])
def test_a_graph_is_what_purify_computes(make):
    purifier = make()
    graph = PurifierGraph(purifier)
    for height, width in ((64, 64), (50, 70)):
        pixels, _, levels = some_batch(graph, 2, height, width)
        images = pixels.permute(0, 3, 1, 2).float() / 255
        generator = torch.Generator().manual_seed(5)
        expected = purifier.purify(images, generator)
        noise = graph.draw_noise(2, height, width, torch.Generator().manual_seed(5))
        purified, total = graph(pixels, noise, levels)
        assert torch.equal(graph(pixels, noise)[0], purified), "its own levels are the default"
        assert purified.dtype == torch.uint8
        assert torch.isfinite(total)
        seen = purified.permute(0, 3, 1, 2).float() / 255
        assert (seen - expected).abs().max() <= 0.5 / 255 + 1e-5


@needs_openvino
@pytest.mark.parametrize("make", [tiny_pixel, tiny_latent])
@pytest.mark.parametrize("spoiled", [float("nan"), float("inf")])
def test_what_is_no_number_shows_in_the_sum(make, spoiled):
    purifier = make()
    with torch.no_grad():
        purifier.unet.conv_out.bias[0] = spoiled
    graph = PurifierGraph(purifier)
    batch = some_batch(graph, 2, 64, 64)
    assert not torch.isfinite(graph(*batch)[1])
    assert not np.isfinite(run(openvino_of(graph), *batch)[1])


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_pixel, tiny_pixel_in_three_steps, tiny_latent, shipped])
def test_openvino_equals_torch_given_the_same_noise(make):
    graph = Unrounded(make())
    compiled = openvino_of(graph)
    for size in SIZES:
        pixels, noise, own = some_batch(graph, *size)
        for levels in (own, own * 2):  # an input: one network serves every strength
            (purified,) = run(compiled, pixels, noise, levels)
            assert np.abs(purified - graph(pixels, noise, levels).numpy()).max() < 1e-4


@needs_openvino
@pytest.mark.slow
def test_openvino_rounds_as_torch_does():
    graph = PurifierGraph(tiny_pixel())
    compiled = openvino_of(graph)
    for size in SIZES:
        batch = some_batch(graph, *size)
        purified, total = run(compiled, *batch)
        expected, expected_total = (tensor.numpy() for tensor in graph(*batch))
        assert purified.dtype == np.uint8
        difference = np.abs(purified.astype(int) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3
        assert total == pytest.approx(expected_total, rel=1e-4)


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_pixel, tiny_latent])
def test_company_and_its_padding_change_no_image(make):
    graph = Unrounded(make())
    compiled = openvino_of(graph)
    pixels, noise, levels = some_batch(graph, 4, 128, 64)
    (together,) = run(compiled, pixels, noise, levels)
    (alone,) = run(compiled, pixels[1:2], noise[:, 1:2], levels)
    assert np.abs(together[1:2] - alone).max() < 1e-4
    pixels[2:], noise[:, 2:] = 0, 1e3
    (beside_padding,) = run(compiled, pixels, noise, levels)
    assert np.abs(beside_padding[:2] - together[:2]).max() < 1e-4
    assert np.abs(beside_padding[2:] - together[2:]).max() > 0.1


def test_strengths_are_those_of_the_table_on_a_scale_that_is_its_own():
    assert PurifierGraph(tiny_pixel()).levels == levels_by_strength(0.05, 1)
    assert PurifierGraph(tiny_latent()).levels == {"standard": (0.2, 0.1)}


def test_one_level_for_all_is_one_level_an_image():
    network = PurificationPipeline.tiny(0).unet
    noisy = torch.rand(3, 3, 64, 64)
    each = denoise(network, noisy, torch.full((3,), 0.05))
    assert torch.allclose(denoise(network, noisy, 0.05), each, atol=1e-6)


class OnTheDeviceAlone(TorchDispatchMode):
    """Refuses what a captured graph cannot do: draw, wait for the device, or touch the host.

    The device `meta` stands for a GPU: a tensor on any other is the host's.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if torch.is_tensor(leaf)]
        assert {tensor.device.type for tensor in tensors} <= {"meta"}, func
        assert torch.Tag.nondeterministic_seeded not in func.tags, func
        assert torch.Tag.data_dependent_output not in func.tags, func
        return out


def tiny_latent_with_a_tiny_autoencoder():
    pipeline = tiny_latent()
    pipeline.register_modules(vae=build_tiny_autoencoder(latent_channels=4, num_halvings=1))
    return pipeline


def latent_that_predicts_velocity():
    pipeline = tiny_latent()
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    return pipeline


@pytest.mark.parametrize(
    "make",
    [
        tiny_pixel,
        tiny_pixel_in_three_steps,
        tiny_latent,
        tiny_latent_with_a_tiny_autoencoder,
        latent_that_predicts_velocity,
        shipped,
    ],
)
def test_a_graph_can_be_captured(make):
    graph = PurifierGraph(make()).to("meta")
    pixels = torch.zeros((2, 64, 128, 3), dtype=torch.uint8, device="meta")
    noise = torch.zeros(graph.noise_shape(2, 64, 128)).to("meta")
    levels = torch.zeros(len(noise), device="meta")
    with torch.no_grad():
        graph(pixels, noise, levels)  # warms up: what the schedule needs comes to the device
        with OnTheDeviceAlone():
            purified, total = graph(pixels, noise, levels)
    assert purified.shape == pixels.shape
    assert total.device.type == "meta"


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x + torch.zeros(2).to("meta"),
        torch.randn_like,
        lambda x: torch.nn.functional.dropout(x, 0.5),
        lambda x: bool(torch.isfinite(x).all()),
    ],
)
def test_what_cannot_be_captured_is_noticed(forbidden):
    with pytest.raises((AssertionError, RuntimeError)), torch.no_grad(), OnTheDeviceAlone():
        forbidden(torch.zeros(2, device="meta"))
