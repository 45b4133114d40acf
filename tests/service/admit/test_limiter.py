import asyncio

import pytest

from codefend.service.admit.limits import (
    FLOOR,
    AdaptiveLimits,
    ConcurrencyLimiter,
    ConcurrencyLimits,
)
from codefend.service.context import RequestsInFlight
from codefend.service.errors import KeyBusy, Overloaded, ShuttingDown


def make_limiter(max_requests=2, rate=0.5, **limits):
    limits = ConcurrencyLimits(max_requests, **limits)
    return ConcurrencyLimiter(limits, RequestsInFlight(), lambda: rate)


def flood(limiter, *callers, most=None):
    """Each takes as many places as it gets; returns how many."""
    placed = dict.fromkeys(callers, 0)
    refused = set()
    while len(refused) < len(callers):
        for caller in callers:
            try:
                limiter.enter(caller, most)
                placed[caller] += 1
            except Overloaded:
                refused.add(caller)
    return placed


def test_places_are_counted_and_given_back_once():
    ledger = RequestsInFlight()
    limiter = ConcurrencyLimiter(ConcurrencyLimits(2), ledger, lambda: 0.5)
    first, second = limiter.enter(""), limiter.enter("")
    with pytest.raises(Overloaded) as refusal:
        limiter.enter("")
    assert refusal.value.retry_after_s == 4, "two inside, one every two seconds"
    assert (ledger.num_inside, ledger.num_arriving) == (2, 2)
    first.mark_enqueued()
    first.mark_enqueued()
    assert ledger.num_arriving == 1
    first.leave()
    first.leave()
    second.leave()
    assert (ledger.num_inside, ledger.num_arriving) == (0, 0)


def test_while_draining_nobody_is_let_in_and_waits_for_the_last():
    async def scenario():
        ledger = RequestsInFlight()
        limiter = ConcurrencyLimiter(ConcurrencyLimits(2), ledger, lambda: 0.5)
        slots = [limiter.enter(""), limiter.enter("")]
        limiter.is_draining = True
        with pytest.raises(ShuttingDown):
            limiter.enter("")
        waiting = asyncio.create_task(ledger.wait_until_empty())
        for slot in slots:
            await asyncio.sleep(0)
            assert not waiting.done()
            slot.leave()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("callers", "each"), [(["ann"], {48}), (["ann", "bob"], {27, 28}), (["a", "b", "c"], {19, 20})]
)
def test_where_callers_share_one_that_floods_leaves_room_for_others(callers, each):
    limiter = make_limiter(64, is_shared=lambda: True)
    placed = flood(limiter, *callers)
    assert set(placed.values()) <= each
    limiter.enter("late")


def test_a_caller_alone_may_have_all_places():
    assert flood(make_limiter(64), "")[""] == 64


def test_a_bound_of_one_key():
    limiter = make_limiter(64)
    assert flood(limiter, "ann", most=3) == {"ann": 3}
    with pytest.raises(KeyBusy) as refusal:
        limiter.enter("ann", 3)
    assert refusal.value.headers()["Retry-After"] == "6"
    assert refusal.value.body()["error"]["code"] == "concurrency_limit_exceeded"
    limiter.enter("bob").leave()


def test_it_takes_in_fewer_after_answers_came_late_and_more_again():
    limiter = make_limiter(64)
    for _ in range(4):
        limiter.learn("", 30.0, was_late=True)
    assert flood(limiter, "") == {"": 1}
    for _ in range(2):
        limiter.learn("", 1.0, was_late=False)
    assert flood(limiter, "") == {"": 1}


def test_a_caller_whose_answers_are_late_lowers_its_own_limit_alone():
    limiter = make_limiter(64, is_shared=lambda: True)
    slow = [limiter.enter("slow") for _ in range(12)]
    for slot in slow:
        limiter.learn("slow", 30.0, was_late=True)
        slot.leave()
    assert flood(limiter, "slow") == {"slow": 1}
    assert flood(limiter, "fast")["fast"] > 40


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_where_all_are_late_with_one_request_each_fewer_come_in_and_who_is_in_time_still_does():
    clock = Clock()
    limits = AdaptiveLimits(64, 30.0, clock)
    late = [f"late-{number}" for number in range(8)]
    for _ in range(3):
        clock.now_s += 31
        for caller in late * 4:
            limits.note_late(caller)
    assert all(limits.most_of(caller) == 1 for caller in late)
    assert limits.most_of_all("late-0", 0) < len(late)
    assert limits.most_of_all("in-time", FLOOR - 1) == 64
    assert limits.most_of_all("in-time", FLOOR) < len(late)
