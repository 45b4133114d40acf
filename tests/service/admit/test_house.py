import asyncio

import pytest

from codefend.service.admit.ceiling import FLOOR, Ceilings
from codefend.service.admit.house import House, HouseLimits
from codefend.service.errors import KeyBusy, Overloaded, ShuttingDown


def make_house(max_requests=2, rate=0.5, **limits):
    return House(HouseLimits(max_requests, **limits), lambda: rate)


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
        house.learn("", 30.0, was_late=True)
    assert flood(house, "") == {"": 1}
    for _ in range(2):
        house.learn("", 1.0, was_late=False)
    assert flood(house, "") == {"": 1}


def test_a_caller_whose_answers_are_late_lowers_its_own_ceiling_alone():
    house = make_house(64, is_shared=lambda: True)
    slow = [house.enter("slow") for _ in range(12)]
    for slot in slow:
        house.learn("slow", 30.0, was_late=True)
        slot.leave()
    assert flood(house, "slow") == {"slow": 1}
    assert flood(house, "fast")["fast"] > 40


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_where_all_are_late_with_one_request_each_fewer_come_in_and_who_is_in_time_still_does():
    clock = Clock()
    ceilings = Ceilings(64, 30.0, clock)
    late = [f"late-{number}" for number in range(8)]
    for _ in range(3):
        clock.now_s += 31
        for caller in late * 4:
            ceilings.note_late(caller)
    assert all(ceilings.most_of(caller) == 1 for caller in late)
    assert ceilings.most_of_all("late-0", 0) < len(late)
    assert ceilings.most_of_all("in-time", FLOOR - 1) == 64
    assert ceilings.most_of_all("in-time", FLOOR) < len(late)
