import asyncio

import pytest

from service.admit.house import House, HouseLimits
from service.errors import KeyBusy, Overloaded, ShuttingDown
from service.queueing.backlog import Ahead


def make_house(max_requests=2, rate=0.5, ahead=lambda *_: Ahead(0, 0), **limits):
    return House(HouseLimits(max_requests, **limits), lambda: rate, ahead)


def flood(house, *callers, most=None):
    """Each takes as many places as it gets; returns how many."""
    placed = dict.fromkeys(callers, 0)
    refused = set()
    while len(refused) < len(callers):
        for caller in callers:
            try:
                house.enter(caller, most)
                placed[caller] += 1
            except Overloaded:
                refused.add(caller)
    return placed


def test_places_are_counted_and_given_back_once():
    house = make_house()
    first, second = house.enter(""), house.enter("")
    with pytest.raises(Overloaded) as refusal:
        house.enter("")
    assert refusal.value.retry_after_s == 4, "two inside, one every two seconds"
    assert (house.num_inside, house.num_arriving) == (2, 2)
    first.arrive()
    first.arrive()
    assert house.num_arriving == 1
    first.leave()
    first.leave()
    second.leave()
    assert (house.num_inside, house.num_arriving) == (0, 0)


def test_a_closing_house_lets_nobody_in_and_waits_for_the_last():
    async def scenario():
        house = make_house()
        slots = [house.enter(""), house.enter("")]
        house.is_draining = True
        with pytest.raises(ShuttingDown):
            house.enter("")
        waiting = asyncio.create_task(house.wait_until_empty())
        for slot in slots:
            await asyncio.sleep(0)
            assert not waiting.done()
            slot.leave()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_whoever_would_be_answered_too_late_is_refused_and_told_for_how_long():
    asked = []

    def ahead(caller, arriving):
        asked.append((caller, dict(arriving)))
        return Ahead(12.1, 12.1) if arriving else Ahead(11.9, 11.9)

    house = make_house(max_requests=64, ahead=ahead, deadline_s=30)
    house.enter("ann")
    with pytest.raises(Overloaded) as refusal:
        house.enter("bob")
    assert refusal.value.retry_after_s == 13
    assert asked == [("ann", {}), ("bob", {"ann": 1})]
    assert house.num_inside == 1


@pytest.mark.parametrize(
    ("callers", "each"), [(["ann"], {48}), (["ann", "bob"], {27, 28}), (["a", "b", "c"], {19, 20})]
)
def test_where_callers_share_one_that_floods_leaves_room_for_others(callers, each):
    house = make_house(64, is_shared=lambda: True)
    placed = flood(house, *callers)
    assert set(placed.values()) <= each
    house.enter("late")


def test_a_caller_alone_may_have_the_whole_house():
    assert flood(make_house(64), "")[""] == 64


def test_a_bound_of_one_key():
    house = make_house(64)
    assert flood(house, "ann", most=3) == {"ann": 3}
    with pytest.raises(KeyBusy) as refusal:
        house.enter("ann", 3)
    assert refusal.value.headers()["Retry-After"] == "6"
    assert refusal.value.body()["error"]["code"] == "concurrency_limit_exceeded"
    house.enter("bob").leave()


def test_it_takes_in_fewer_after_answers_came_late_and_more_again():
    house = make_house(64)
    for _ in range(4):
        house.learn(30.0, was_late=True)
    assert flood(house, "") == {"": 1}
    for _ in range(2):
        house.learn(1.0, was_late=False)
    assert flood(house, "") == {"": 1}
