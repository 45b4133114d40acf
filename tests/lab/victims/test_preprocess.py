"""The differentiable preprocessing equals the stock processors, and gradients pass through it."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from codefend.lab.victims.preprocess import Preprocess
from codefend.lab.victims.resizing import resize_like_pillow

PROCESSORS = {
    "as it is": SiglipImageProcessorPil(do_resize=False),
    "same size": SiglipImageProcessorPil(size={"height": 96, "width": 128}),
    "smaller": SiglipImageProcessorPil(size={"height": 56, "width": 56}),
    "larger": SiglipImageProcessorPil(size={"height": 160, "width": 200}),
    "clip": CLIPImageProcessorPil(
        size={"shortest_edge": 70}, crop_size={"height": 64, "width": 64}
    ),
    "padded crop": LlavaImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 63, "width": 63}
    ),
    "bare": SiglipImageProcessorPil(do_normalize=False, do_rescale=False, resample=2),
    "tiles as shipped": SmolVLMImageProcessorPil(),
    "tiles": Idefics3ImageProcessorPil(
        size={"longest_edge": 128}, max_image_size={"longest_edge": 40}
    ),
    "tiles of a fixed size": Idefics3ImageProcessorPil(
        size={"height": 50, "width": 70}, max_image_size={"longest_edge": 32}, resample=3
    ),
    "tiles as it is": SmolVLMImageProcessorPil(
        do_resize=False, max_image_size={"longest_edge": 64}
    ),
    "one tile": Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 64}
    ),
    "squeezed": Idefics3ImageProcessorPil(
        do_image_splitting=False, max_image_size={"longest_edge": 48}, do_pad=False
    ),
    "patches as shipped": Qwen2VLImageProcessorPil(),
    "few patches": Qwen2VLImageProcessorPil(
        size={"shortest_edge": 28 * 28, "longest_edge": 84 * 84}, resample=2
    ),
    "many patches": Qwen2VLImageProcessorPil(
        size={"shortest_edge": 300 * 300, "longest_edge": 400 * 400}, temporal_patch_size=1
    ),
    "other patches": Qwen2VLImageProcessorPil(patch_size=8, merge_size=4, do_normalize=False),
}


def photo(height, width, seed=0):
    """A smooth image with some grain, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Resampling.BICUBIC)).astype(int)
    grain = rng.integers(-12, 13, smooth.shape)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", list(PROCESSORS))
@pytest.mark.parametrize("size", [(96, 128), (131, 77), (64, 64), (40, 200)])
def test_equals_stock_processor(name, size):
    """Two images of one size in one batch, every output that the stock processor gives."""
    processor = PROCESSORS[name]
    pixels = [photo(*size, seed) for seed in (0, 1)]
    pictures = [Image.fromarray(image) for image in pixels]
    if isinstance(processor, Idefics3ImageProcessorPil | SmolVLMImageProcessorPil):
        pictures = [[picture] for picture in pictures]  # a list for each text
    stock = processor(images=pictures, return_tensors="pt")
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255.0
    ours = Preprocess.from_processor(processor).inputs(images)
    assert set(ours) == set(stock)
    for key, value in stock.items():
        assert ours[key].shape == value.shape
        assert (ours[key] - value.float()).abs().max() <= 1e-3


@pytest.mark.parametrize("resample", [Resampling.BILINEAR, Resampling.BICUBIC, Resampling.LANCZOS])
@pytest.mark.parametrize("size", [(40, 50), (200, 333), (97, 61)])
def test_resize_is_pillows_and_its_gradient_the_filters(resample, size):
    """The linear filters, whose gradient is used, are within rounding of Pillow's result."""
    pixels = photo(97, 120)
    stock = np.asarray(Image.fromarray(pixels).resize(size[::-1], resample))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].double().requires_grad_(True)
    ours = resize_like_pillow(tensor, *size, resample)
    np.testing.assert_allclose(ours[0].permute(1, 2, 0).detach().numpy(), stock, atol=1e-9)
    (gradient,) = torch.autograd.grad(ours[0, 0, 5, 5], tensor)
    assert gradient.sum() == pytest.approx(1.0)
    assert float((gradient * tensor.detach()).sum()) == pytest.approx(stock[5, 5, 0], abs=1.5)


@pytest.mark.parametrize("name", ["smaller", "tiles", "squeezed", "patches as shipped"])
def test_gradient_reaches_every_pixel(name):
    images = torch.rand(1, 3, 60, 80, requires_grad=True)
    weights = torch.Generator().manual_seed(0)
    values = Preprocess.from_processor(PROCESSORS[name])(images)
    (values * torch.rand(values.shape, generator=weights)).sum().backward()
    assert (images.grad != 0).float().mean() > 0.95


def test_tiles_are_the_image_itself():
    """At a size that needs no resizing, all tiles but the last put together are the image."""
    processor = SmolVLMImageProcessorPil(do_resize=False, max_image_size={"longest_edge": 32})
    images = torch.from_numpy(photo(64, 96)).permute(2, 0, 1)[None].float() / 255.0
    tiles = Preprocess.from_processor(processor)(images)[0] * 0.5 + 0.5
    rows = [torch.cat(list(tiles[start : start + 3]), dim=2) for start in (0, 3)]
    torch.testing.assert_close(torch.cat(rows, dim=1), images[0])
    assert len(tiles) == 7


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (LlavaImageProcessorPil(do_pad=True), "do_pad"),
        (SiglipImageProcessorPil(size={"longest_edge": 64}), "size"),
        (Idefics3ImageProcessorPil(size={"shortest_edge": 64}), "size"),
        (Idefics3ImageProcessorPil(max_image_size={"height": 64, "width": 64}), "max_image_size"),
        (Qwen2VLImageProcessorPil(size={"height": 64, "width": 64}), "size"),
    ],
)
def test_refuses_what_it_cannot_mirror(processor, message):
    with pytest.raises(ValueError, match=message):
        Preprocess.from_processor(processor)


def test_refuses_another_backend():
    class FastProcessor:
        backend = "torchvision"

    with pytest.raises(ValueError, match="FastProcessor resizes with torchvision: load it with"):
        Preprocess.from_processor(FastProcessor())


def test_refuses_another_filter_and_broken_patches():
    with pytest.raises(ValueError, match="filter"):
        resize_like_pillow(torch.zeros(1, 3, 8, 8), 4, 4, Resampling.HAMMING)
    as_it_is = Preprocess.from_processor(Qwen2VLImageProcessorPil(do_resize=False))
    assert as_it_is(torch.zeros(1, 3, 56, 28)).shape == (8, 3 * 2 * 14 * 14)
    with pytest.raises(ValueError, match="whole groups of 28"):
        as_it_is(torch.zeros(1, 3, 60, 80))
