import pytest

from codefend.service import context
from codefend.service.context import Timings
from codefend.service.metrics import Metrics, Stage


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now_s = 100.0

    monkeypatch.setattr(context.time, "monotonic", lambda: Clock.now_s)
    return Clock


def test_time_in_which_stages_of_several_images_overlap_counts_once(clock):
    stopwatch = Timings(Metrics())
    for span in ((101, 104), (102, 103), (103, 105), (107, 108)):
        stopwatch.record(Stage.PURIFY, *span)
    clock.now_s = 110
    assert stopwatch.milliseconds() == {"purify": 5000, "total": 10_000}


def test_a_stage_under_way_lasts_until_now(clock):
    stopwatch = Timings(Metrics())
    with stopwatch.stage(Stage.FORWARD):
        clock.now_s = 103
        assert stopwatch.milliseconds()["forward"] == 3000
    clock.now_s = 200
    assert stopwatch.milliseconds()["forward"] == 3000
