import os
import signal
import time

import pytest

from codefend.service.processes.child import Child
from codefend.service.processes.heartbeat import (
    BEAT_S,
    IDLE_PATIENCE_S,
    STOPPED_PATIENCE_S,
    HeartbeatMonitor,
    StallDetector,
    Vitals,
)
from tests.service.processes.misbehaviour import make_handler

pytestmark = pytest.mark.slow


def test_silence_counts_only_while_somebody_listens():
    monitor = HeartbeatMonitor(patience_s=2 * BEAT_S)
    assert monitor.is_alive(0)
    assert monitor.is_alive(0)
    assert monitor.is_alive(1)
    assert monitor.is_alive(1)
    assert not monitor.is_alive(1)
    assert monitor.is_alive(2)


def beats_until_stalled(vitals_of, *, is_due):
    stalls = StallDetector()
    beats = range(int(10 * IDLE_PATIENCE_S / BEAT_S))
    return next((n for n in beats if stalls.is_stalled(vitals_of(n), is_due=is_due)), None)


def test_a_process_that_is_stopped_is_lost_soon_whether_it_is_due_or_not():
    for is_due in (True, False):
        beats = beats_until_stalled(lambda _: Vitals(True, 7), is_due=is_due)
        assert (beats + 1) * BEAT_S == STOPPED_PATIENCE_S


def test_one_that_owes_an_answer_has_to_use_the_processor_a_little():
    assert beats_until_stalled(lambda _: Vitals(False, 7), is_due=True) * BEAT_S == IDLE_PATIENCE_S
    assert beats_until_stalled(lambda _: Vitals(False, 7), is_due=False) is None
    assert beats_until_stalled(lambda n: Vitals(False, n // 5), is_due=True) is None
    assert beats_until_stalled(lambda n: Vitals(n % 3 == 0, 7), is_due=False) is None
    assert beats_until_stalled(lambda _: None, is_due=True) is None


def wait_until(condition):
    ends_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.05)


def test_a_heart_beats_while_its_process_runs():
    child = Child("heart", make_handler, "heart", beats=True)
    assert child.has_ended()
    child.launch()
    child.wait_until_ready(60)
    try:
        first = child.count_beats()
        wait_until(lambda: child.count_beats() > first + 1)
        os.kill(child.pid, signal.SIGSTOP)
        wait_until(lambda: stands_still(child))
        assert not child.has_ended()
        os.kill(child.pid, signal.SIGCONT)
        stood_at = child.count_beats()
        wait_until(lambda: child.count_beats() > stood_at)
        child.kill()
        wait_until(child.has_ended)
    finally:
        child.stop()
    assert child.has_ended()


def stands_still(child):
    before = child.count_beats()
    time.sleep(3 * BEAT_S)
    return child.count_beats() == before


def test_a_child_without_a_heart_never_beats():
    child = Child("plain", make_handler, "plain")
    child.launch()
    child.wait_until_ready(60)
    time.sleep(2 * BEAT_S)
    assert child.count_beats() == 0
    child.stop()
