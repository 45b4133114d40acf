import pytest

from codefend.service.fairness import Backlog, measure_backlog


@pytest.mark.parametrize(
    ("pixels", "newcomer", "fair"),
    [
        ({}, "ann", 0),
        ({"ann": 5}, "ann", 5),
        ({"bob": 50}, "ann", 0),
        ({"bob": 50, "ann": 5}, "ann", 10),
        ({"bob": 50, "cid": 3, "ann": 5}, "ann", 13),
        ({"bob": 50, "ann": 5}, "bob", 55),
    ],
)
def test_of_others_only_as_much_is_ahead_as_of_oneself(pixels, newcomer, fair):
    ahead = measure_backlog(pixels, newcomer, running_s=3.0, seconds_per_pixel=2.0)
    assert ahead == Backlog(running_s=3.0, fair_s=2 * fair)


def test_a_newcomer_comes_in_however_many_flood():
    flooded = {"bob": 21, "cid": 21, "dan": 21}
    assert measure_backlog(flooded, "bob", 0, 1.0).exceeds_deadline(1, 50)
    assert not measure_backlog(flooded, "ann", 0, 1.0).exceeds_deadline(1, 50)


@pytest.mark.parametrize(
    ("running_s", "fair_s", "own_s", "is_too_late"),
    [
        (0, 12, 1, False),
        (0, 12.1, 1, True),
        (18, 5, 1, False),
        (18, 5, 1.1, True),
        (0, 0, 24, False),
        (0, 0, 24.1, True),
    ],
)
def test_what_runs_what_waits_and_the_picture_itself_have_to_fit(
    running_s, fair_s, own_s, is_too_late
):
    assert Backlog(running_s, fair_s).exceeds_deadline(own_s, left_s=30) is is_too_late
