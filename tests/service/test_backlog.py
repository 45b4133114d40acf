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
    waiting = {(caller, None): number for caller, number in pixels.items()}
    ahead = measure_backlog(waiting, (newcomer, None), running_s=3.0, seconds_per_pixel=2.0)
    assert ahead == Backlog(running_s=3.0, fair_s=2 * fair)


def test_a_newcomer_comes_in_however_many_flood():
    flooded = {("bob", None): 21, ("cid", None): 21, ("dan", None): 21}
    assert measure_backlog(flooded, ("bob", None), 0, 1.0).exceeds_deadline(1, 50)
    assert not measure_backlog(flooded, ("ann", None), 0, 1.0).exceeds_deadline(1, 50)


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


@pytest.mark.parametrize(
    ("waiting", "newcomer", "own_work", "fair"),
    [
        ({("ann", 1): 500}, ("ann", None), 0, 0),  # a whole picture waits for no tile but one
        ({("ann", 1): 500, ("ann", None): 5}, ("ann", None), 0, 10),
        ({("ann", None): 20}, ("ann", 2), 90, 20),  # its tiles let all that is shorter pass
        ({("ann", None): 200}, ("ann", 2), 90, 90),
        ({("bob", None): 200}, ("ann", 2), 90, 90),
        ({("bob", 1): 30, ("bob", 2): 30, ("ann", None): 20}, ("ann", 3), 90, 80),
    ],
)
def test_tiles_take_turns_with_what_else_waits(waiting, newcomer, own_work, fair):
    ahead = measure_backlog(waiting, newcomer, 0.0, 1.0, own_work)
    assert ahead.fair_s == fair
