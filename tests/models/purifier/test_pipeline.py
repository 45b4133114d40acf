from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from codefend.models.purifier.denoiser import denoise
from codefend.models.purifier.network import build_network
from codefend.models.purifier.pipeline import PurificationPipeline


@pytest.fixture(scope="module")
def pipeline() -> PurificationPipeline:
    return PurificationPipeline.tiny()


@pytest.mark.parametrize(("height", "width"), [(128, 128), (37, 50), (1, 1), (5, 200), (64, 33)])
def test_any_size_comes_back_in_the_same_shape_and_range(
    pipeline: PurificationPipeline, height: int, width: int
) -> None:
    purified = pipeline.purify(torch.rand(2, 3, height, width))
    assert purified.shape == (2, 3, height, width)
    assert purified.min() >= 0
    assert purified.max() <= 1


def test_noise_is_fresh_unless_a_generator_repeats_it(pipeline: PurificationPipeline) -> None:
    images = torch.rand(1, 3, 64, 64)
    assert not torch.equal(pipeline.purify(images), pipeline.purify(images))
    first, second = (pipeline.purify(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_a_saved_pipeline_gives_the_same_images(
    pipeline: PurificationPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path)
    loaded = PurificationPipeline.from_pretrained(tmp_path)
    images = torch.rand(1, 3, 64, 64)
    outputs = [
        p.purify(images, torch.Generator().manual_seed(1), num_steps=3) for p in (pipeline, loaded)
    ]
    assert torch.allclose(*outputs, atol=1e-5)
    assert loaded.config.name == "tiny"


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(3, 8, 8), {}, "shape"),
        (torch.rand(1, 4, 8, 8), {}, "shape"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {}, "float"),
        (torch.rand(1, 3, 8, 8), {"num_steps": 0}, "num_steps"),
        (torch.rand(1, 3, 8, 8), {"noise_level": 0.0}, "noise_level"),
        (torch.rand(1, 3, 8, 8), {"noise_level": 2.0}, "noise_level"),
    ],
)
def test_wrong_input_is_refused(
    pipeline: PurificationPipeline, images: torch.Tensor, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.purify(images, **options)


def test_an_untrained_network_shrinks_towards_grey_and_nothing_else() -> None:
    noisy = torch.rand(2, 3, 64, 64)
    denoised = denoise(build_network(), noisy, 0.1)
    skip = 0.25**2 / (0.1**2 + 0.25**2)
    assert torch.allclose(denoised, skip * (noisy - 0.5) + 0.5, atol=1e-5)


def test_gradients_reach_the_image(pipeline: PurificationPipeline) -> None:
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    pipeline.purify_with_gradient(images, num_steps=2).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_the_default_network_stays_under_45_gmac_at_512_px() -> None:
    network = build_network().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoise(network, torch.rand(1, 3, 512, 512), 0.05)
    assert counter.get_total_flops() / 2 <= 45e9
