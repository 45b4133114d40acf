"""A pool of real children: turns, and what is lost when one of them is (nothing)."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import pytest

from codefend.service.processes.child import Child, ChildDied, ChildTimeout, LaunchFailed
from codefend.service.processes.pool import MOST_LOSSES, ChildPool, PoolJob
from codefend.service.processes.supervision import LAUNCH_PAUSE_S
from tests.service.processes.misbehaviour import make_handler

pytestmark = pytest.mark.slow

START_S = 60


class Restarts:
    number = 0

    def count(self):
        self.number += 1


@asynccontextmanager
async def running(size=2, restarts=None, *, is_shared=False):
    pool = ChildPool(
        lambda index: Child(f"child-{index}", make_handler, index),
        size,
        START_S,
        (restarts or Restarts()).count,
        lambda: is_shared,
    )
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


def job(blob=b"", timeout_s=30, caller="", cost=1, **meta):
    return PoolJob(meta, blob, timeout_s, caller, cost)


async def until(condition):
    async with asyncio.timeout(START_S):
        while not condition():  # noqa: ASYNC110 - the conditions are not this loop's to signal
            await asyncio.sleep(0.02)


def test_what_ends_every_child_that_has_it_is_given_up_and_costs_nobody_else_an_answer():
    restarts = Restarts()

    async def scenario():
        async with running(restarts=restarts) as pool:
            jobs = [
                job(b"%d" % index, **({"do": "die"} if index == 2 else {})) for index in range(6)
            ]
            asked = (pool.run(one) for one in jobs)
            answers = await asyncio.gather(*asked, return_exceptions=True)
            await until(lambda: restarts.number == MOST_LOSSES)
            return answers

    answers = asyncio.run(scenario())
    assert isinstance(answers.pop(2), ChildDied)
    assert [blob for _, blob in answers] == [b"0", b"1", b"3", b"4", b"5"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("size", [1, 2])
def test_a_child_that_is_killed_or_stopped_costs_nobody_an_answer(number, size):
    restarts = Restarts()

    async def scenario():
        async with running(size, restarts) as pool:
            before = set(pool.pids)
            # Idle, it is found before anybody needs it; busy, its message goes to another.
            os.kill(pool.pids[0], number)
            asked = [asyncio.create_task(pool.run(job(b"%d" % i))) for i in range(4)]
            answers = await asyncio.gather(*asked)
            await until(lambda: restarts.number == 1 and len(pool.pids) == size)
            return answers, before - set(pool.pids)

    answers, gone = asyncio.run(scenario())
    assert [blob for _, blob in answers] == [b"0", b"1", b"2", b"3"]
    assert len(gone) == 1


@pytest.mark.alone
def test_what_uses_all_of_its_time_is_not_tried_again_and_what_is_held_up_is(monkeypatch):
    restarts = Restarts()

    async def scenario(do):
        async with running(1, restarts) as pool:
            with pytest.raises(ChildDied) as death:
                await pool.run(job(do=do, timeout_s=1.0))
            return death.value

    assert isinstance(asyncio.run(scenario("work")), ChildTimeout)
    assert restarts.number <= 1
    assert not isinstance(asyncio.run(scenario("sleep")), ChildTimeout), "nobody's fault"


def test_callers_take_turns_by_what_their_messages_cost():
    order = []

    async def run(pool, caller, cost):
        await pool.run(job(caller=caller, cost=cost))
        order.append(caller)

    async def scenario():
        async with running(1) as pool:
            first = asyncio.create_task(pool.run(job(do="nap", caller="heavy", cost=100)))
            await asyncio.sleep(0)
            flood = [run(pool, "heavy", 100) for _ in range(4)]
            others = [run(pool, "light", 1) for _ in range(4)]
            await asyncio.gather(first, *flood, *others)

    asyncio.run(scenario())
    assert order == ["light"] * 4 + ["heavy"] * 4


def test_where_callers_share_the_children_none_has_all_of_them():
    async def scenario():
        async with running(2, is_shared=True) as pool:
            slow = [asyncio.create_task(pool.run(job(do="nap", caller="heavy"))) for _ in range(4)]
            await asyncio.sleep(0)
            await pool.run(job(caller="light"))
            num_done = sum(task.done() for task in slow)
            await asyncio.gather(*slow)
            return num_done

    assert asyncio.run(scenario()) == 0


def test_who_leaves_takes_the_message_out_of_the_queue():
    async def scenario():
        async with running(1) as pool:
            first = asyncio.create_task(pool.run(job(do="nap")))
            await asyncio.sleep(0)
            waiting = asyncio.create_task(pool.run(job(do="die")))
            await asyncio.sleep(0)
            waiting.cancel()
            await first
            return await pool.run(job(b"ab"))

    assert asyncio.run(scenario())[1] == b"ba"


def test_a_pool_that_stops_gives_up_what_runs_and_replaces_nobody():
    restarts = Restarts()

    async def scenario():
        async with running(2, restarts) as pool:
            tasks = [asyncio.create_task(pool.run(job(do="sleep", timeout_s=60))) for _ in range(3)]
            await asyncio.sleep(0.1)
            async with asyncio.timeout(30):
                await pool.stop()
            for task in tasks:
                with pytest.raises(ChildDied):
                    await task
            return pool.pids

    assert asyncio.run(scenario()) == []
    assert restarts.number == 0


def test_launches_that_fail_are_tried_again_and_again(monkeypatch):
    monkeypatch.setattr(
        "codefend.service.processes.supervision.LAUNCH_PAUSE_S", LAUNCH_PAUSE_S / 10
    )
    failures = []

    def fail(child):
        failures.append(child.name)
        raise LaunchFailed(child.name, "no files")

    async def scenario():
        async with running(1) as pool:
            with monkeypatch.context() as patch:
                patch.setattr(Child, "launch", fail)
                os.kill(pool.pids[0], signal.SIGKILL)
                answer = asyncio.create_task(pool.run(job(b"ab")))
                await until(lambda: len(failures) >= 5)
            return await answer

    assert asyncio.run(scenario())[1] == b"ba"
