import asyncio

import pytest

from codefend.service.context import gather_or_cancel
from codefend.service.errors import InvalidImage


async def value(number):
    await asyncio.sleep(0)
    return number


def test_results_come_in_order():
    async def scenario():
        return await gather_or_cancel(value(number) for number in range(3))

    assert asyncio.run(scenario()) == [0, 1, 2]


def test_one_failure_is_raised_itself_and_ends_the_others():
    ended = []

    async def wait_for_ever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def fail():
        await asyncio.sleep(0)
        raise InvalidImage

    async def scenario():
        await gather_or_cancel([wait_for_ever(), fail(), wait_for_ever()])

    with pytest.raises(InvalidImage):
        asyncio.run(scenario())
    assert ended == [True, True]
