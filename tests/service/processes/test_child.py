"""One real child process after another: answers, deaths, silence and confinement."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from service.processes.child import NICENESS, Child, ChildDied, ChildTimeout
from service.processes.pool import ChildPool
from tests.service.processes.misbehaviour import make_confined_handler, make_handler

START_S = 60
LEAVE_RUNNING = """
from service.processes.child import Child
from tests.service.processes.misbehaviour import make_handler

child = Child("left", make_handler, "left")
child.launch()
child.wait_until_ready(60)
print(child.pid)
"""


@pytest.fixture
def child():
    child = Child("echo", make_handler, "echo")
    child.launch()
    assert child.wait_until_ready(START_S) == {"name": "echo"}
    yield child
    child.stop()


def test_it_answers_until_it_is_stopped(child):
    assert child.call({"a": 1}, b"ab", 5) == ({"echo": {"a": 1}}, b"ba")
    assert child.call({}, b"x" * 100_000, 5)[1] == b"x" * 100_000
    child.stop()
    assert child.pid is None
    with pytest.raises(ChildDied):
        child.call({}, b"", 5)


def test_it_leaves_the_processor_to_the_service_first(child):
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(19, os.nice(0) + NICENESS)


def test_a_death_tells_its_exit_code(child):
    with pytest.raises(ChildDied) as death:
        child.call({"do": "die"}, b"", 30)
    assert death.value.exit_code == 7


def test_silence_is_ended(child):
    with pytest.raises(ChildTimeout):
        child.call({"do": "sleep"}, b"", 0.1)
    assert child.pid is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_cannot_start_says_so():
    child = Child("broken", make_handler, "refuses to start")
    child.launch()
    with pytest.raises(ChildDied):
        child.wait_until_ready(START_S)


def test_confinement(tmp_path):
    child = Child("confined", make_confined_handler, 512 << 20)
    child.launch()
    child.wait_until_ready(START_S)
    assert child.call({"do": "hoard"}, b"", 30)[0] == {"memory": "refused"}
    path = str(tmp_path / "file")
    assert child.call({"do": "write", "path": path}, b"", 30)[0] == {"file": "refused"}
    with pytest.raises(ChildDied) as death:
        child.call({"do": "spin"}, b"", 60)
    assert death.value.exit_code == -signal.SIGXCPU


def test_a_pool_replaces_the_dead_and_loses_one_message_each():
    restarts = []

    async def scenario():
        make = [Child("a", make_handler, "a"), Child("b", make_handler, "b")].__getitem__
        pool = ChildPool(make, 2, START_S, lambda: restarts.append(1))
        await pool.start()
        try:
            asked = [
                pool.run({"do": "die"} if index == 2 else {}, b"%d" % index, 30)
                for index in range(6)
            ]
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await pool.stop()

    answers = asyncio.run(scenario())
    assert isinstance(answers.pop(2), ChildDied)
    assert [blob for _, blob in answers] == [b"0", b"1", b"3", b"4", b"5"]
    assert restarts == [1]


def test_a_pool_that_stops_gives_up_what_runs_and_replaces_nobody():
    restarts = []
    children = [Child("a", make_handler, "a"), Child("b", make_handler, "b")]

    async def scenario():
        pool = ChildPool(children.__getitem__, 2, START_S, lambda: restarts.append(1))
        await pool.start()
        running = asyncio.create_task(pool.run({"do": "sleep"}, b"", 60))
        await pool.run({}, b"", 30)  # by then the first has long begun
        async with asyncio.timeout(30):
            await pool.stop()
        with pytest.raises(ChildDied):
            await running

    asyncio.run(scenario())
    assert restarts == []
    assert [child.pid for child in children] == [None, None]


def test_whoever_exits_without_a_stop_takes_its_children_along():
    command = [sys.executable, "-c", LEAVE_RUNNING]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
