"""`codefend.Purifier`: images of every kind in Python, without a server."""

import numpy as np
import pytest
import torch
from PIL import Image

import codefend
from tests.documentation import ROOT
from tests.service.fake_engine import IMPORT_PATH
from tests.service.pictures import picture
from tests.test_documentation import code_blocks


@pytest.fixture(scope="module")
def purifier():
    """With the fake engine, which turns every level to its negative."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CODEFEND_ENGINE", IMPORT_PATH)
        patch.delenv("CODEFEND_API_KEYS", raising=False)
        patch.setenv("CODEFEND_TILE_ABOVE_PX", "256")
        yield codefend.Purifier.load()


@pytest.mark.parametrize("shape", [(40, 56), (1, 1), (64, 64), (70, 301), (600, 300)])
def test_an_array_comes_back_as_an_array_of_its_size(purifier, shape):
    pixels = picture(*shape)
    purified = purifier(pixels)
    assert np.array_equal(purified, 255 - pixels)
    assert purified.dtype == np.uint8


def test_a_batch_comes_back_as_one(purifier):
    batch = np.stack([picture(40, 56, seed) for seed in range(5)])
    assert np.array_equal(purifier(batch), 255 - batch)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(3, 40, 56), (2, 3, 64, 70)])
def test_a_tensor_keeps_shape_and_type(purifier, dtype, shape):
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1))
    images = levels.to(dtype) if dtype == torch.uint8 else (levels / 255).to(dtype)
    purified = purifier(images)
    assert (purified.shape, purified.dtype) == (images.shape, dtype)
    found = purified if dtype == torch.uint8 else (purified.float() * 255).round()
    assert torch.equal(found.long(), 255 - levels)


def test_a_gradient_is_neither_needed_nor_kept(purifier):
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert not purifier(images).requires_grad


def test_a_pillow_image_comes_back_upright_on_white(purifier):
    pixels = picture(40, 56)
    image = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(purifier(image)), 255 - pixels)
    layered = Image.fromarray(np.dstack([pixels, np.zeros((40, 56), np.uint8)]))
    purified = purifier(layered)
    assert purified.mode == "RGB"
    assert not np.asarray(purified).any()
    turned = image.getexif()
    turned[0x0112] = 6
    image.info["exif"] = turned.tobytes()
    assert purifier(image).size == (40, 56)
    assert purifier(image.convert("L")).mode == "RGB"


def test_several_of_any_kind_and_size(purifier):
    array, large = picture(40, 56), picture(30, 500)
    tensor, image = torch.zeros(2, 3, 16, 16), Image.new("RGB", (9, 7), "white")
    purified = purifier([array, tensor, large, image])
    assert np.array_equal(purified[0], 255 - array)
    assert torch.equal(purified[1], torch.ones_like(tensor))
    assert np.array_equal(purified[2], 255 - large)
    assert (purified[3].size, np.asarray(purified[3]).max()) == ((9, 7), 0)
    assert purifier(()) == ()


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        ("picture.png", TypeError, "an image is PIL's, an array or a tensor, not str"),
        (np.zeros((4, 4), np.uint8), ValueError, r"shape \(H, W, 3\)"),
        (np.zeros((3, 4, 4), np.uint8), ValueError, r"not \(3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "not"),
        (np.zeros((4, 4, 3), np.float32), ValueError, "uint8, from 0 to 255, not float32"),
        (torch.zeros(4, 4, 3), ValueError, r"shape \(3, H, W\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), ValueError, "uint8 or floating"),
        (torch.full((3, 4, 4), 2.0), ValueError, "from 0 to 1"),
        (torch.full((3, 4, 4), torch.nan), ValueError, "from 0 to 1"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(purifier, images, error, says):
    with pytest.raises(error, match=says):
        purifier(images)
    with pytest.raises(error, match=says):
        purifier([picture(4, 4), images])


def test_suspicion_is_the_detectors(purifier):
    pixels = picture(40, 56)
    found = purifier.suspicion(pixels, purifier(pixels))
    assert found is None or 0 <= found <= 1


@pytest.mark.slow
def test_the_page_s_code_runs(monkeypatch, capsys):
    monkeypatch.delenv("CODEFEND_ENGINE", raising=False)
    monkeypatch.chdir(ROOT)
    (code,) = code_blocks((ROOT / "docs/python.md").read_text(), "python")
    left = {}
    exec(code, left)
    assert capsys.readouterr().out == "1.0\n"
    assert left["purified"].size == left["attacked"].size
    purifier, clean = left["purifier"], Image.open("gallery/images/000-clean.png")
    assert purifier.suspicion(clean, purifier(clean)) < 0.99


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'Purify'"):
        codefend.Purify  # noqa: B018
