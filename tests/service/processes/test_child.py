"""One real child process after another: answers, deaths, silence and confinement."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from codefend.service.processes.child import NICENESS, Child, ChildDied, ChildTimeout, LaunchFailed
from tests.service.processes.misbehaviour import make_confined_handler, make_handler

pytestmark = pytest.mark.slow

START_S = 60
LEAVE_RUNNING = """
from codefend.service.processes.child import Child
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
    assert death.value.exceeded_cpu_limit


def test_it_asks_and_is_told_before_it_answers(child):
    replies = {"pixels": "there"}.get
    answer, _ = child.call(
        {"do": "ask", "what": "pixels"}, b"", 5, lambda q: {"r": replies(q["question"])}
    )
    assert answer == {"told": {"r": "there"}}


def test_one_that_asks_what_nobody_answers_is_ended(child):
    with pytest.raises(ChildDied):
        child.call({"do": "ask", "what": "pixels"}, b"", 5)
    assert child.pid is None


@pytest.mark.parametrize("lacking", ["Pipe", "Process"])
def test_whatever_keeps_it_from_being_launched_is_told_and_nothing_is_left(lacking, monkeypatch):
    child = Child("unborn", make_handler, "unborn")
    num_files = len(os.listdir("/proc/self/fd"))

    def lack(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        if lacking == "Pipe":
            patch.setattr("multiprocessing.context.SpawnContext.Pipe", lack)
        else:
            patch.setattr("multiprocessing.context.SpawnProcess.start", lack)
        with pytest.raises(LaunchFailed, match="Too many open files"):
            child.launch()
    assert child.pid is None
    assert len(os.listdir("/proc/self/fd")) == num_files
    child.launch()
    child.wait_until_ready(START_S)
    child.stop()


def test_whoever_exits_without_a_stop_takes_its_children_along():
    command = [sys.executable, "-c", LEAVE_RUNNING]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
