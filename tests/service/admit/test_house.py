import asyncio

import pytest

from service.admit.house import House
from service.errors import Overloaded, ShuttingDown


def test_places_are_counted_and_given_back_once():
    house = House(2, lambda: 0.5)
    first, second = house.enter(), house.enter()
    with pytest.raises(Overloaded) as refusal:
        house.enter()
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
        house = House(2, lambda: 0)
        slots = [house.enter(), house.enter()]
        house.is_draining = True
        with pytest.raises(ShuttingDown):
            house.enter()
        waiting = asyncio.create_task(house.wait_until_empty())
        for slot in slots:
            await asyncio.sleep(0)
            assert not waiting.done()
            slot.leave()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())
