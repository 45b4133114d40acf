"""What holds for all tests: which are slow, in what order, and that nothing outlives them."""

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
# Everything there starts a service, or several.
SLOW_FOLDERS = {"faults", "e2e", "litellm"}
# What they give is a running service, a network that is fetched, or a whole evaluation.
SLOW_FIXTURES = {"service", "session_upstream", "encoders_folder", "finished"}
# Matplotlib lists the fonts of a machine when it first draws there, in whichever test that is.
FONTS_ONCE = "fc-list"

_running = None


def pytest_ignore_collect(collection_path, config):
    """For `-m alone` only files that name the mark: to import all others takes half a minute."""
    if config.option.markexpr != "alone":
        return None
    files = collection_path.rglob("test_*.py") if collection_path.is_dir() else [collection_path]
    return True if not any("mark.alone" in file.read_text() for file in files) else None


def pytest_collection_modifyitems(items):
    """Whoever asks for what is slow to make is slow, too; files with anything slow come first.

    What takes long is then well under way when a process runs out of files, and the others that
    are left are short. A file's tests stay together.
    """
    for item in items:
        is_slow = SLOW_FIXTURES & set(item.fixturenames) or item.get_closest_marker("alone")
        if is_slow or item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


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
        lists_fonts = bool(arguments) and arguments[0][:1] == [FONTS_ONCE]
        assert not is_fast or lists_fonts, "it starts a process: mark it slow"
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
