"""What holds for all tests: which are slow, which run alone, and that nothing outlives them."""

import faulthandler
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.process import BaseProcess

import hypothesis
import pytest

from codefend.service.processes.pixels import PixelStore

# A busy machine may take any time for anything: only the property itself is under test.
hypothesis.settings.register_profile("no-deadline", deadline=None, max_examples=50)
hypothesis.settings.load_profile("no-deadline")

ENDING_TIMEOUT_S = 60
# Everything there starts a service, or several, and measures how long something takes.
ALONE = ("faults", "e2e", "litellm")
# What they give is a running service, a network that is fetched, or a whole evaluation.
SLOW_FIXTURES = {"service", "session_upstream", "encoders_folder", "finished"}

_running = None


def pytest_collection_modifyitems(items):
    """Whoever asks for what is slow to make is slow, and whatever is in the folders of `ALONE`."""
    for item in items:
        if item.path.parent.name in ALONE:
            item.add_marker(pytest.mark.alone)
        if SLOW_FIXTURES & set(item.fixturenames) or item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    global _running  # noqa: PLW0603 - what is patched below belongs to no test
    _running = item
    try:
        return (yield)
    finally:
        _running = None


def for_slow_tests_alone(start):
    """Refuses to start a process in a test that is not marked."""

    def start_or_refuse(self, *arguments, **options):
        is_fast = _running is not None and _running.get_closest_marker("slow") is None
        assert not is_fast, "it starts a process: mark it slow"
        return start(self, *arguments, **options)

    return start_or_refuse


subprocess.Popen.__init__ = for_slow_tests_alone(subprocess.Popen.__init__)
BaseProcess.start = for_slow_tests_alone(BaseProcess.start)


@pytest.fixture
def leases(monkeypatch):
    """All memory that was taken for pixels since."""
    taken, lease = [], PixelStore.lease

    def lease_and_note(*arguments):
        taken.append(lease(*arguments))
        return taken[-1]

    monkeypatch.setattr(PixelStore, "lease", lease_and_note)
    return taken


@pytest.fixture(scope="session", autouse=True)
def nothing_outlives_the_tests():
    """Whatever a service leaves behind when it ends would keep a process of its own from ending."""
    yield
    ends_s = time.monotonic() + ENDING_TIMEOUT_S
    while left_behind() and time.monotonic() < ends_s:
        time.sleep(0.1)
    assert left_behind() == []


def left_behind():
    others = set(threading.enumerate()) - {threading.main_thread()}
    return [*multiprocessing.active_children(), *(other for other in others if not other.daemon)]


def pytest_unconfigure():
    """A process that does not end once all is tested is a failure too: it says where it stands."""
    faulthandler.dump_traceback_later(ENDING_TIMEOUT_S, file=sys.__stderr__)
    signal.alarm(2 * ENDING_TIMEOUT_S)
