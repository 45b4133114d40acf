import pytest

from service.queueing.backlog import measure_ahead


@pytest.mark.parametrize(
    ("pixels", "newcomer", "fair", "total"),
    [
        ({}, "ann", 1, 1),
        ({"ann": 5}, "ann", 6, 6),
        ({"bob": 50}, "ann", 1, 51),
        ({"bob": 50, "ann": 5}, "ann", 11, 56),
        ({"bob": 50, "cid": 3, "ann": 5}, "ann", 14, 59),
        ({"bob": 50, "ann": 5}, "bob", 56, 56),
    ],
)
def test_of_others_only_as_much_is_ahead_as_of_oneself(pixels, newcomer, fair, total):
    ahead = measure_ahead(pixels, newcomer, running_pixels=1, seconds_per_pixel=2.0)
    assert (ahead.fair_s, ahead.total_s) == (2 * fair, 2 * total)


def test_a_newcomer_still_comes_in_when_one_who_floods_is_barred():
    flooded = {"bob": 21}
    assert measure_ahead(flooded, "bob", 0, 1.0).bars_arrival(50)
    assert not measure_ahead(flooded, "ann", 0, 1.0).bars_arrival(50)
    assert measure_ahead({"bob": 26}, "ann", 0, 1.0).bars_arrival(50), "it would be late as well"


def test_a_decoded_image_has_a_little_more_room():
    ahead = measure_ahead({"bob": 28}, "bob", 0, 1.0)
    assert ahead.bars_arrival(50)
    assert not ahead.bars_joining(50)
    assert ahead.bars_joining(40)
