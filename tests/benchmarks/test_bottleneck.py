"""What limits a service is named by what its parts can do alone."""

import os
import time

import pytest

from benchmarks.bottleneck import Busy, name_bottleneck
from benchmarks.family import measure_family_cpu_s, measure_own_cpu_s


@pytest.mark.parametrize(
    ("engine_per_s", "without_engine_per_s", "busy", "named"),
    [
        (100, 900, Busy(0.2, 0.1, 0.3), "engine"),
        (900, 100, Busy(0.98, 0.4, 0.3), "API process"),
        (900, 100, Busy(0.6, 0.4, 0.95), "codecs"),
        (900, 100, Busy(0.6, 0.99, 0.3), "clients"),
    ],
)
def test_the_slowest_part_is_named(engine_per_s, without_engine_per_s, busy, named):
    assert name_bottleneck(engine_per_s, without_engine_per_s, busy) == named


def test_a_process_is_told_from_its_family():
    before_s = measure_own_cpu_s(os.getpid())
    ends_s = time.process_time() + 0.2
    while time.process_time() < ends_s:
        pass
    assert measure_own_cpu_s(os.getpid()) - before_s >= 0.1
    assert measure_own_cpu_s(os.getpid()) <= measure_family_cpu_s(os.getpid()) + 0.05


def test_a_process_that_is_gone_took_nothing_more():
    assert measure_own_cpu_s(2**22 + 1) == 0
