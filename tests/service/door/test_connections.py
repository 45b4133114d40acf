import logging
from dataclasses import replace

import pytest

from codefend.service.door.connections import ConnectionRegister, DoorLimits, fit_connections

LIMITS = DoorLimits(max_connections=3, num_probe_connections=2)


class Caller:
    def __init__(self):
        self.is_dropped = False

    def drop(self):
        self.is_dropped = True


def crowd(connections, number):
    callers = [Caller() for _ in range(number)]
    for caller in callers:
        connections.enter(caller)
    return callers


def test_at_the_cap_the_connection_that_waits_longest_makes_room():
    connections = ConnectionRegister(LIMITS)
    callers = crowd(connections, 5)
    assert [caller.is_dropped for caller in callers] == [True, True, False, False, False]
    assert connections.num_open == 3
    assert not connections.is_full


def test_a_connection_at_work_is_never_closed_for_another():
    connections = ConnectionRegister(LIMITS)
    first, second, third = crowd(connections, 3)
    connections.work(first)
    connections.work(third)
    crowd(connections, 1)
    assert (first.is_dropped, second.is_dropped, third.is_dropped) == (False, True, False)


def test_an_idle_connection_waits_from_its_last_answer_on():
    connections = ConnectionRegister(LIMITS)
    first, second, _ = crowd(connections, 3)
    connections.work(first)
    connections.wait(first)
    crowd(connections, 1)
    assert (first.is_dropped, second.is_dropped) == (False, True)


def test_where_all_are_at_work_a_few_more_come_in_for_probes_and_the_rest_are_closed():
    connections = ConnectionRegister(LIMITS)
    for caller in crowd(connections, 3):
        connections.work(caller)
    assert not connections.is_full
    probes = crowd(connections, 2)
    assert connections.is_full
    assert [probe.is_dropped for probe in probes] == [True, False]  # the first made room
    connections.work(probes[1])
    last = crowd(connections, 2)
    connections.work(last[1])
    assert [caller.is_dropped for caller in last] == [True, False]
    (newcomer,) = crowd(connections, 1)
    assert newcomer.is_dropped
    assert connections.num_open == 5


def test_who_left_is_forgotten():
    connections = ConnectionRegister(LIMITS)
    callers = crowd(connections, 3)
    for caller in callers:
        connections.leave(caller)
    assert connections.num_open == 0
    connections.wait(callers[0])
    crowd(connections, 3)
    assert not any(caller.is_dropped for caller in callers)


def test_refusals_are_counted_each_and_said_once_a_minute(caplog):
    now_s, counted = [0.0], []
    connections = ConnectionRegister(LIMITS, counted.append, lambda: now_s[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(90):
            connections.note("silent")
            now_s[0] += 1
        connections.note("evicted")
    assert counted.count("silent") == 90
    said = [(record.fields["reason"], record.fields["count"]) for record in caplog.records]
    assert said == [("silent", 1), ("silent", 60), ("evicted", 1)]


def test_what_is_read_for_nothing_has_one_rate_for_all():
    now_s = [0.0]
    connections = ConnectionRegister(LIMITS, clock=lambda: now_s[0])
    assert connections.pause_of_dropping_s(1 << 20) == 0
    pauses_s = [connections.pause_of_dropping_s(1 << 20) for _ in range(100)]
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[-1] == pytest.approx(1.0)
    now_s[0] += 2
    assert connections.pause_of_dropping_s(1 << 20) == 0


@pytest.mark.parametrize("open_files", [64, 256, 1024, 4096, 1 << 16])
@pytest.mark.parametrize("max_requests", [1, 64, 512])
def test_connections_leave_files_for_their_requests_and_for_everything_else(
    open_files, max_requests
):
    wished = replace(LIMITS, max_connections=10_000, num_probe_connections=16)
    limits = fit_connections(
        wished, open_files=open_files, num_children=6, max_requests=max_requests
    )
    busy = min(limits.max_connections, max_requests)
    used = limits.max_connections + limits.num_probe_connections + 2 * busy + 6 * 8
    assert used <= open_files - 32 or limits.max_connections == 8
    assert 8 <= limits.max_connections <= 10_000


def test_the_wish_is_kept_where_there_are_files():
    limits = fit_connections(LIMITS, open_files=4096, num_children=6, max_requests=64)
    assert limits == LIMITS
