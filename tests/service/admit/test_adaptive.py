"""The limit in front of simulated models: serial ones that collapse, and parallel ones."""

import heapq
import random

import pytest

from codefend.service.admit.limits import AdaptiveConcurrencyLimit

DEADLINE_S = 30.0


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def simulate(seconds_each, num_parallel, per_second, duration_s, *, has_ceiling=True):
    """Random arrivals before a model that answers in order; returns when each ended, and how."""
    clock, chance = Clock(), random.Random(0)
    limit = AdaptiveConcurrencyLimit(64, DEADLINE_S, clock)
    free_at_s, inside, ends = [0.0] * num_parallel, [], []

    def see_out(until_s):
        while inside and inside[0][0] <= until_s:
            clock.now_s, took_s = heapq.heappop(inside)
            ends.append((clock.now_s, took_s >= DEADLINE_S))
            if took_s >= DEADLINE_S:
                limit.note_late()
            else:
                limit.note_answer(took_s, len(inside) + 1)

    now_s = 0.0
    while now_s < duration_s:
        now_s += chance.expovariate(per_second)
        see_out(now_s)
        clock.now_s = now_s
        if len(inside) < (limit.num_requests if has_ceiling else 64):
            begins_s = max(now_s, heapq.heappop(free_at_s))
            # One that is late is taken from the model in the midst of its work, or before it began.
            ends_s = min(begins_s + seconds_each, now_s + DEADLINE_S)
            heapq.heappush(free_at_s, max(begins_s, ends_s))
            heapq.heappush(inside, (ends_s, ends_s - now_s))
    return ends, limit


def late_share(ends, from_s):
    later = [is_late for end_s, is_late in ends if end_s >= from_s]
    return sum(later) / len(later), len(later)


@pytest.mark.parametrize(
    ("seconds_each", "num_parallel"), [(2.0, 1), (1.0, 1), (0.5, 1), (5.0, 4), (3.0, 2)]
)
def test_a_model_that_is_asked_too_much_recovers(seconds_each, num_parallel):
    ends, _ = simulate(seconds_each, num_parallel, per_second=10, duration_s=600)
    share, number = late_share(ends, 90)
    assert share < 0.01
    capacity = num_parallel / seconds_each
    assert number > 0.9 * (600 - 90) * capacity, "and is kept busy"


def test_without_a_ceiling_it_does_not():
    ends, _ = simulate(2.0, 1, per_second=10, duration_s=600, has_ceiling=False)
    assert late_share(ends, 90)[0] > 0.5


def test_a_model_that_has_room_is_never_held_back():
    ends, limit = simulate(5.0, 64, per_second=50, duration_s=120)
    assert limit.num_requests == 64
    assert late_share(ends, 0)[0] == 0


def test_single_late_answers_among_fast_ones_do_not_matter():
    clock = Clock()
    limit = AdaptiveConcurrencyLimit(64, DEADLINE_S, clock)
    for _ in range(100):
        clock.now_s += 0.5
        limit.note_answer(1.0, 3)
        if clock.now_s % 5 == 0:
            limit.note_late()
    assert limit.num_requests > 20, "many times what is ever inside"


def test_after_an_outage_it_rises_as_far_as_it_is_asked_to():
    clock = Clock()
    limit = AdaptiveConcurrencyLimit(64, DEADLINE_S, clock)
    for _ in range(4):
        assert limit.num_requests == 64
        limit.note_late()
    assert limit.num_requests == 1
    for _ in range(200):
        clock.now_s += 1
        limit.note_answer(3.0, num_inside=8)
    assert limit.num_requests == 16, "twice as many as ever came"
    for _ in range(200):
        clock.now_s += 1
        limit.note_answer(3.0, limit.num_requests)
    assert limit.num_requests == 64


@pytest.mark.parametrize("seconds", [16.0, 29.0])
def test_slow_answers_do_not_raise_it(seconds):
    clock = Clock()
    limit = AdaptiveConcurrencyLimit(64, DEADLINE_S, clock)
    for _ in range(4):
        limit.note_late()
    for _ in range(50):
        clock.now_s += 1
        limit.note_answer(seconds, 64)
    assert limit.num_requests == 1
