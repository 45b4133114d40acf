"""What holds for all tests."""

import multiprocessing
import threading
import time

import hypothesis
import pytest

# A busy machine may take any time for anything: only the property itself is under test.
hypothesis.settings.register_profile("no-deadline", deadline=None, max_examples=50)
hypothesis.settings.load_profile("no-deadline")

ENDING_TIMEOUT_S = 20


@pytest.fixture(scope="session", autouse=True)
def nothing_outlives_the_tests():
    """Whatever a service leaves behind when it ends would keep a process of its own from ending."""
    yield
    ends_s = time.monotonic() + ENDING_TIMEOUT_S
    while left_behind() and time.monotonic() < ends_s:
        time.sleep(0.1)
    assert left_behind() == []


def left_behind():
    threads = [thread for thread in threading.enumerate() if not thread.daemon]
    return [*multiprocessing.active_children(), *threads[1:]]
