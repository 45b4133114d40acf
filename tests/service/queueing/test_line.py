import asyncio

import pytest

from service.errors import Overloaded
from service.queueing.costs import BatchCosts, Throughput
from service.queueing.line import Job, Line
from service.queueing.policy import BatchLimits

LIMITS = BatchLimits(max_images=4, max_pixels=1 << 22, wait_fraction=1.0, join_waste=0)


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def make_line(max_length=8, arriving=lambda: 0):
    clock = Clock()
    return Line(LIMITS, BatchCosts(), max_length, arriving, Throughput(clock), clock)


def make_job(side=64, deadline_s=60.0):
    return Job(pixels=None, height=side, width=side, deadline_s=deadline_s, queued_at_s=0.0)


def test_jobs_leave_in_batches_and_in_order():
    async def scenario():
        line = make_line()
        jobs = [make_job() for _ in range(5)]
        for job in jobs:
            line.join(job)
        assert len(line) == 5
        batch = await line.next_batch()
        assert list(batch.jobs) == jobs[:4]
        assert batch.padding_ratio == 0
        assert list((await line.next_batch()).jobs) == jobs[4:]

    asyncio.run(scenario())


def test_a_job_that_left_is_in_no_batch():
    async def scenario():
        line = make_line()
        gone, stays = make_job(), make_job()
        line.join(gone)
        line.join(stays)
        line.leave(gone)
        line.leave(gone)
        assert (await line.next_batch()).jobs == (stays,)

    asyncio.run(scenario())


def test_a_full_line_refuses_and_says_when():
    async def scenario():
        line = make_line(max_length=1)
        line.join(make_job())
        with pytest.raises(Overloaded) as refusal:
            line.join(make_job())
        assert refusal.value.headers()["Retry-After"] == "1"

    asyncio.run(scenario())


def test_a_line_too_long_for_the_deadline_refuses_even_if_there_is_room():
    async def scenario():
        line = make_line()
        line.costs.suppose(10 / (64 * 64))
        line.join(make_job())
        batch = await line.next_batch()
        line.join(make_job())
        with pytest.raises(Overloaded):
            line.join(make_job(deadline_s=30))
        line.finish(batch, seconds=10.0)
        line.join(make_job(deadline_s=30))

    asyncio.run(scenario())


def test_a_worker_that_waits_for_company_is_woken_when_nobody_comes():
    async def scenario():
        arriving = 1
        line = make_line(arriving=lambda: arriving)
        line.costs.suppose(100)
        line.join(make_job())
        waiting = asyncio.create_task(line.next_batch())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        arriving = 0
        line.wake()
        assert len((await waiting).jobs) == 1

    asyncio.run(scenario())


def test_a_failed_job_comes_back_alone():
    async def scenario():
        line = make_line(max_length=1)
        line.join(make_job())
        failed = make_job()
        line.rejoin(failed)
        assert (await line.next_batch()).jobs == (failed,)
        assert failed.alone

    asyncio.run(scenario())
