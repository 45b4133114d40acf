"""What holds for all tests."""

import faulthandler
import multiprocessing
import signal
import sys
import threading
import time

import hypothesis
import pytest

from codefend.service.processes.pixels import PixelStore

# A busy machine may take any time for anything: only the property itself is under test.
hypothesis.settings.register_profile("no-deadline", deadline=None, max_examples=50)
hypothesis.settings.load_profile("no-deadline")

ENDING_TIMEOUT_S = 60


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
