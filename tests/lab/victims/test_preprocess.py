"""The differentiable preprocessing equals the stock processors, and gradients pass through it."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from lab.victims.preprocess import Preprocess
from lab.victims.resample import resize_like_pillow

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
}


def photo(height, width, seed=0):
    """A smooth image with some grain, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Resampling.BICUBIC)).astype(int)
    grain = rng.integers(-12, 13, smooth.shape)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", list(PROCESSORS))
@pytest.mark.parametrize("size", [(96, 128), (131, 77)])
def test_equals_stock_processor(name, size):
    processor = PROCESSORS[name]
    pixels = photo(*size)
    stock = processor(images=[Image.fromarray(pixels)], return_tensors="pt")["pixel_values"]
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255.0
    ours = Preprocess.from_processor(processor)(images)
    assert ours.shape == stock.shape
    assert (ours - stock.float()).abs().max() <= 1e-3


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


def test_gradient_reaches_every_pixel():
    images = torch.rand(1, 3, 60, 80, requires_grad=True)
    Preprocess.from_processor(PROCESSORS["smaller"])(images).sum().backward()
    assert (images.grad != 0).float().mean() > 0.95


def test_refuses_what_it_cannot_mirror():
    with pytest.raises(ValueError, match="do_pad"):
        Preprocess.from_processor(LlavaImageProcessorPil(do_pad=True))
    with pytest.raises(ValueError, match="filter"):
        resize_like_pillow(torch.zeros(1, 3, 8, 8), 4, 4, Resampling.HAMMING)
