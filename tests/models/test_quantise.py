import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codefend.models.quantise import dequantise, quantise


def test_every_byte_survives_the_way_there_and_back():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        there = dequantise(levels, dtype)
        assert there.dtype is dtype
        assert 0 <= there.min() <= there.max() <= 1
        if dtype is not torch.bfloat16:  # eight bits of mantissa cannot tell 256 levels apart
            assert torch.equal(quantise(there), levels)


@given(st.floats(-2, 3))
def test_rounding_is_half_to_even_and_then_clamped(value):
    image = torch.full((1, 3, 1, 1), value)
    expected = min(255, max(0, round(float(image[0, 0, 0, 0] * 255))))
    assert quantise(image).unique().tolist() == [expected]


def test_half_levels_round_to_even():
    halves = torch.tensor([0.5, 1.5, 2.5]).reshape(1, 3, 1, 1) / 255
    assert quantise(halves).flatten().tolist() == [0, 2, 2]


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, 3), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)],
)
def test_other_shapes_and_types_are_refused(images):
    with pytest.raises(ValueError, match="expected floating point"):
        quantise(images)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        quantise(torch.full((1, 3, 2, 2), torch.nan))


def test_only_bytes_are_dequantised():
    with pytest.raises(ValueError, match="expected uint8"):
        dequantise(torch.zeros(1, 3, 4, 4))
