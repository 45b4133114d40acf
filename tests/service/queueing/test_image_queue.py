import asyncio

import pytest

from codefend.models.buckets import Bucket
from codefend.models.purifier.strengths import STRENGTHS, Strength
from codefend.service.context import RequestsInFlight
from codefend.service.errors import ImageTooLarge, ImageTooSlow, NotReady, Overloaded
from codefend.service.fairness import Backlog
from codefend.service.queueing.batching import BatchLimits
from codefend.service.queueing.estimates import BATCHES_UNTIL_RAISED, BatchCosts, Throughput
from codefend.service.queueing.image_queue import ImageQueue
from codefend.service.stages import BatchFailure, Job

LIMITS = BatchLimits(max_images=4, max_pixels=1 << 22, wait_fraction=1.0, join_waste=0)


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def make_queue(max_length=8, ledger=None):
    clock = Clock()
    ledger = ledger or RequestsInFlight()
    return ImageQueue(LIMITS, BatchCosts(), max_length, ledger, Throughput(clock), clock)


def make_job(side=64, deadline_s=60.0, caller="", strength=Strength.STANDARD):
    times = {"deadline_s": deadline_s, "queued_at_s": 0.0}
    return Job(None, side, side, **times, caller=caller, strength=strength)


def test_jobs_leave_in_batches_and_in_order():
    async def scenario():
        queue = make_queue()
        jobs = [make_job() for _ in range(5)]
        for job in jobs:
            queue.put(job)
        assert len(queue) == 5
        batch = await queue.next_batch()
        assert list(batch.jobs) == jobs[:4]
        assert batch.padding_ratio == 0
        assert list((await queue.next_batch()).jobs) == jobs[4:]

    asyncio.run(scenario())


def test_a_job_that_left_is_in_no_batch():
    async def scenario():
        queue = make_queue()
        gone, stays = make_job(), make_job()
        queue.put(gone)
        queue.put(stays)
        queue.remove(gone)
        queue.remove(gone)
        assert (await queue.next_batch()).jobs == (stays,)

    asyncio.run(scenario())


def test_a_full_line_refuses_and_says_when():
    async def scenario():
        queue = make_queue(max_length=1)
        queue.put(make_job())
        with pytest.raises(Overloaded) as refusal:
            queue.put(make_job())
        assert refusal.value.headers()["Retry-After"] == "1"

    asyncio.run(scenario())


def test_a_line_too_long_for_the_deadline_refuses_even_if_there_is_room():
    async def scenario():
        queue = make_queue()
        queue.costs.suppose(10 / (64 * 64))
        queue.put(make_job())
        batch = await queue.next_batch()
        queue.put(make_job())
        with pytest.raises(Overloaded):
            queue.put(make_job(deadline_s=30))
        queue.finish(batch, seconds=10.0)
        queue.put(make_job(deadline_s=30))

    asyncio.run(scenario())


def test_a_worker_that_waits_for_company_is_woken_when_nobody_comes():
    async def scenario():
        ledger = RequestsInFlight()
        arriving = ledger.add("")
        queue = make_queue(ledger=ledger)
        queue.costs.suppose(1e-3)
        queue.put(make_job())
        waiting = asyncio.create_task(queue.next_batch())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        arriving.mark_enqueued()
        assert len((await waiting).jobs) == 1

    asyncio.run(scenario())


def test_a_batch_that_raised_is_halved_until_the_one_at_fault_is_given_up():
    async def scenario():
        queue = make_queue(max_length=4)
        jobs = [make_job() for _ in range(4)]
        for job in jobs:
            queue.put(job)
        bad, given_up, batches = jobs[2], [], []
        while len(queue):
            batch = await queue.next_batch()
            batches.append([jobs.index(job) for job in batch.jobs])
            if bad in batch.jobs:
                given_up += queue.retry(batch, BatchFailure.RAISED)
            else:
                queue.finish(batch, seconds=1.0)
        assert given_up == [bad]
        assert batches == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]

    asyncio.run(scenario())


def test_a_batch_that_killed_its_worker_runs_again_whole_and_then_one_by_one():
    async def scenario():
        queue = make_queue()
        jobs = [make_job() for _ in range(3)]
        for job in jobs:
            queue.put(job)
        for _ in range(2):
            batch = await queue.next_batch()
            queue.put(make_job())
            assert list(batch.jobs) == jobs
            assert queue.retry(batch, BatchFailure.DIED) == []
        for job in jobs:
            batch = await queue.next_batch()
            assert batch.jobs == (job,)
            if job is jobs[0]:
                assert queue.retry(batch, BatchFailure.DIED) == [job]
        assert len((await queue.next_batch()).jobs) == 2, "the others were not drawn in"

    asyncio.run(scenario())


def test_jobs_whose_clients_left_are_not_tried_again():
    async def scenario():
        queue = make_queue(max_length=1)
        queue.put(make_job())
        batch = await queue.next_batch()
        batch.jobs[0].done.cancel()
        assert queue.retry(batch, BatchFailure.DIED) == []
        assert len(queue) == 0

    asyncio.run(scenario())


def test_batches_become_smaller_when_memory_was_lacking_and_larger_again():
    async def scenario():
        queue = make_queue(max_length=400)
        for _ in range(4):
            queue.put(make_job())
        queue.retry(await queue.next_batch(), BatchFailure.OUT_OF_MEMORY)
        sizes = []
        for _ in range(BATCHES_UNTIL_RAISED + 1):
            while len(queue) < 4:
                queue.put(make_job(deadline_s=1e9))
            batch = await queue.next_batch()
            sizes.append(len(batch.jobs))
            queue.finish(batch, seconds=0.0)
        assert set(sizes[:-1]) == {2}
        assert sizes[-1] == 4

    asyncio.run(scenario())


def test_batches_are_smaller_where_they_take_long():
    async def scenario():
        queue = make_queue()
        for _ in range(4):
            queue.put(make_job(deadline_s=30))
        queue.costs.suppose(2 / (64 * 64))
        assert len((await queue.next_batch()).jobs) == 2, "two seconds each, and four and a half"
        queue.costs.suppose(60 / (64 * 64))
        assert len((await queue.next_batch()).jobs) == 1

    asyncio.run(scenario())


def test_a_flood_bars_its_own_caller_and_no_other():
    async def scenario():
        queue = make_queue(max_length=100)
        queue.costs.suppose(1 / (64 * 64))
        for _ in range(11):
            queue.put(make_job(deadline_s=30, caller="flood"))
        for _ in range(2):
            queue.reserve("flood", [(64, 64)], deadline_s=30, whole_s=30)
        with pytest.raises(Overloaded) as refusal:
            queue.reserve("flood", [(64, 64)], deadline_s=30, whole_s=30)
        assert refusal.value.retry_after_s == 13
        queue.reserve("other", [(64, 64)], deadline_s=30, whole_s=30)

    asyncio.run(scenario())


def test_a_promise_is_a_place_until_it_is_kept_or_given_back():
    async def scenario():
        queue = make_queue(max_length=2)
        kept = queue.reserve("", [(64, 64)], deadline_s=60, whole_s=60)
        lost = queue.reserve("", [(64, 64)], deadline_s=60, whole_s=60)
        with pytest.raises(Overloaded):
            queue.reserve("", [(64, 64)], deadline_s=60, whole_s=60)
        job = make_job()
        job.reservation = kept
        queue.put(job)
        assert len(queue) == 1
        with pytest.raises(Overloaded):
            queue.put(make_job())
        queue.withdraw(kept)
        queue.withdraw(lost)
        queue.withdraw(lost)
        queue.put(make_job())

    asyncio.run(scenario())


def test_an_image_that_takes_too_long_by_itself_is_told_the_setting_that_would_change_it():
    queue = make_queue()
    queue.costs.suppose(100 / (1024 * 1024))
    queue.withdraw(
        queue.reserve("", [(1024, 1024)], deadline_s=30, whole_s=30)
    )  # only a warm-up says so
    queue.costs.record(Bucket(1024, 1024), 1, 19.0)
    queue.costs.record(Bucket(1024, 1024), 1, 90.0)  # a busy moment is no reason to refuse for good
    with pytest.raises(ImageTooSlow, match=r" 19 s .* 18 s.*CODEFEND_DEADLINE_S"):
        queue.reserve("", [(1024, 1024)], deadline_s=30, whole_s=30)
    queue.costs.begin_anew()
    queue.costs.record(Bucket(1024, 1024), 1, 17.0)
    queue.reserve("", [(1024, 1024)], deadline_s=30, whole_s=30)


def test_while_a_large_image_runs_others_join_and_wait_for_it_alone():
    async def scenario():
        queue = make_queue()
        queue.costs.suppose(13 / (1024 * 1024))
        queue.put(make_job(side=1024, deadline_s=30, caller="large"))
        await queue.next_batch()
        queue.reserve("other", [(64, 64)], deadline_s=30, whole_s=30)
        assert queue.measure_backlog("other").running_s == 13
        queue._clock.now_s = 10
        assert queue.measure_backlog("other").running_s == 3
        queue._clock.now_s = 20
        assert queue.measure_backlog("other").running_s == 0

    asyncio.run(scenario())


def test_who_is_purified_in_more_steps_pays_for_them():
    """With time and with turns: two passes are as two images."""

    async def scenario():
        queue = make_queue(max_length=100)
        queue.costs.suppose(1 / (64 * 64))
        strong = {"strength": Strength.STRONG}
        times = STRENGTHS[Strength.STRONG].times_steps
        assert times == 2
        for _ in range(5):
            queue.put(make_job(deadline_s=30, caller="strong", **strong))
        for _ in range(2):
            queue.reserve("strong", [(64, 64)], deadline_s=30, whole_s=30, **strong)
        with pytest.raises(Overloaded) as refusal:
            queue.reserve("strong", [(64, 64)], deadline_s=30, whole_s=30, **strong)
        assert refusal.value.retry_after_s == 7 * times
        for _ in range(6):
            queue.put(make_job(deadline_s=30, caller="standard"))
        served = [await queue.next_batch() for _ in range(4)]
        turns = [(batch.jobs[0].caller, len(batch.jobs)) for batch in served]
        assert turns == [("strong", 2), ("standard", 4), ("strong", 2), ("standard", 2)]

    asyncio.run(scenario())


def test_too_slow_an_image_is_judged_by_its_strength():
    queue = make_queue()
    queue.costs.suppose(10 / (1024 * 1024))
    queue.costs.record(Bucket(1024, 1024), 1, 10.0)
    queue.withdraw(queue.reserve("", [(1024, 1024)], deadline_s=30, whole_s=30))
    with pytest.raises(ImageTooSlow, match=r" 20 s .* 18 s"):
        queue.reserve("", [(1024, 1024)], deadline_s=30, whole_s=30, strength=Strength.STRONG)


def test_a_caller_who_comes_late_is_in_the_next_batch():
    async def scenario():
        queue = make_queue(max_length=100)
        for _ in range(20):
            queue.put(make_job(caller="flood"))
        await queue.next_batch()
        late = make_job(caller="other")
        queue.put(late)
        assert (await queue.next_batch()).jobs[0] is late

    asyncio.run(scenario())


def test_those_who_come_while_no_worker_is_there_wait_for_it_too():
    queue = make_queue()
    queue.pause_s = lambda: 5.0
    queue.costs.suppose(1 / (64 * 64))
    ahead = queue.measure_backlog("")
    assert ahead == Backlog(running_s=5, fair_s=0)
    queue.reserve("", [(64, 64)], deadline_s=30, whole_s=30)
    with pytest.raises(NotReady) as refusal:
        queue.reserve("", [(64, 64)], deadline_s=7, whole_s=30)
    assert refusal.value.retry_after_s == 6


TILES = [(64, 64)] * 6


def tile_jobs(reservation=None, caller=""):
    return [
        Job(None, *size, 1e9, 0.0, caller, reservation, image_size=(100, 200), tile=number)
        for number, size in enumerate(TILES)
    ]


def test_a_picture_takes_a_place_for_each_of_its_tiles():
    async def scenario():
        queue = make_queue(max_length=8)
        place = queue.reserve("", TILES, deadline_s=60, whole_s=60)
        assert place.work == 6 * 64 * 64
        queue.reserve("", [(64, 64)], deadline_s=60, whole_s=60)
        queue.put(make_job())
        with pytest.raises(Overloaded):
            queue.put(make_job())
        queue.put(*tile_jobs(place))
        assert len(queue) == 7
        with pytest.raises(Overloaded):
            queue.reserve("", TILES, deadline_s=60, whole_s=60)

    asyncio.run(scenario())


def test_a_picture_of_more_tiles_than_places_is_told_the_settings():
    queue = make_queue(max_length=6)
    queue.withdraw(queue.reserve("", TILES, deadline_s=60, whole_s=60))
    with pytest.raises(ImageTooLarge, match=r"7 tiles.*6 .*CODEFEND_MAX_QUEUE.*PURIFY_SIDE_PX"):
        queue.reserve("", [*TILES, (64, 64)], deadline_s=60, whole_s=60)


def test_all_tiles_count_in_what_a_picture_takes_and_workers_share_them():
    queue = make_queue()
    queue.costs.suppose(1.0 / (64 * 64))
    queue.costs.record(Bucket(64, 64), 1, 1.0)
    queue.withdraw(queue.reserve("", TILES, deadline_s=10, whole_s=10))  # 6 s of 10
    with pytest.raises(ImageTooSlow, match="CODEFEND_PURIFY_SIDE_PX"):
        queue.reserve("", TILES, deadline_s=9.9, whole_s=9.9)
    queue.num_workers = 2
    queue.reserve("", TILES, deadline_s=5, whole_s=5)


def test_tiles_that_are_not_needed_leave_together():
    async def scenario():
        queue = make_queue()
        jobs, other = tile_jobs(), make_job()
        queue.put(*jobs)
        queue.put(other)
        queue.remove(*jobs)
        assert (await queue.next_batch()).jobs == (other,)

    asyncio.run(scenario())


def test_a_finished_tile_is_a_part_of_an_image():
    async def scenario():
        clock = Clock()
        throughput = Throughput(clock)
        queue = ImageQueue(LIMITS, BatchCosts(), 8, RequestsInFlight(), throughput, clock)
        queue.put(*tile_jobs())
        clock.now_s = 1.0
        for _ in range(2):
            queue.finish(await queue.next_batch(), seconds=0.01)
        assert throughput.per_second() == pytest.approx(1.0)

    asyncio.run(scenario())


def test_a_small_picture_of_the_same_caller_runs_in_the_next_batch_but_one():
    async def scenario():
        queue = make_queue()
        queue.put(*tile_jobs())
        first = await queue.next_batch()
        assert len(first.jobs) == 4
        small = make_job(side=128)
        queue.put(small)
        ahead = [await queue.next_batch(), await queue.next_batch()]
        assert any(small in batch.jobs for batch in ahead)

    asyncio.run(scenario())
