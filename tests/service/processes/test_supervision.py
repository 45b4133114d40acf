import asyncio

import pytest

from codefend.service.processes.child import ChildDied, LaunchFailed
from codefend.service.processes.supervision import LAUNCH_PAUSE_S, Backoff, Supervision


def test_pauses_double_where_starts_fail_and_not_where_there_was_no_process_to_start():
    backoff = Backoff()
    assert [backoff.pause_s(ChildDied("x", 1)) for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    for error in (LaunchFailed("x", "no files"), OSError("no memory")):
        assert backoff.pause_s(error) == LAUNCH_PAUSE_S
    backoff.reset()
    assert backoff.pause_s(ChildDied("x", 1)) == 2


async def raises():
    raise ValueError("a fault of ours")


async def returns():
    return


async def waits():
    await asyncio.Event().wait()


@pytest.mark.parametrize(("work", "failed"), [(raises, ["supervisor"]), (returns, []), (waits, [])])
def test_a_supervisor_that_fails_is_told_of_and_one_that_is_done_or_cancelled_is_not(work, failed):
    failures = []

    async def scenario():
        task = Supervision(failures.append).start("supervisor", work())
        await asyncio.wait([task], timeout=0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert failures == failed
