"""When the upstream is asked and when not, on a clock that only the test turns."""

import pytest

from codefend.service.errors import UpstreamDown
from codefend.service.forward.breaker import Breaker, BreakerLimits, BreakerState, Verdict
from codefend.service.forward.failures import Reason, UpstreamFailure, settle

LIMITS = BreakerLimits(num_failures=3, window_s=10, pause_s=5, max_pause_s=15, num_trials=2)


OUTCOMES = {"ok": Verdict.ANSWERED, "no": Verdict.FAILED, "left": Verdict.NOTHING}


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def changes():
    return []


@pytest.fixture
def breaker(clock, changes):
    return Breaker(LIMITS, clock, lambda state, pause_s: changes.append((state.name, pause_s)))


def ask(breaker, *outcomes, caller=""):
    for outcome in outcomes:
        permit = breaker.enter(caller)
        permit.begin()
        permit.settle(OUTCOMES[outcome])


def refusal_of(breaker):
    with pytest.raises(UpstreamDown) as raised:
        breaker.check()
    return raised.value.retry_after_s


def test_a_run_of_failures_opens_it_however_long_it_took(breaker, clock):
    for _ in range(3):
        breaker.check()
        ask(breaker, "no")
        clock.now_s += 1000
    clock.now_s -= 1000
    assert refusal_of(breaker) == 5


def test_failures_among_answers_open_it_by_their_share_alone(breaker):
    ask(breaker, "ok", "no", "ok", "no", "ok", "no")
    assert breaker.state is BreakerState.CLOSED
    ask(breaker, "no")
    assert breaker.state is BreakerState.OPEN


def test_old_outcomes_are_forgotten(breaker, clock):
    ask(breaker, "no", "no", "ok")
    clock.now_s += 11
    ask(breaker, "no", "ok", "no")
    assert breaker.state is BreakerState.CLOSED


def test_what_tells_nothing_changes_nothing(breaker):
    ask(breaker, *["left"] * 20, "no", "no", "left")
    assert breaker.state is BreakerState.CLOSED


def test_one_caller_does_not_shut_out_another_that_is_answered(breaker):
    ask(breaker, "ok", caller="ann")
    for _ in range(20):
        ask(breaker, "no", "no", caller="mallory")
        ask(breaker, "ok", caller="ann")
    assert breaker.state is BreakerState.CLOSED
    ask(breaker, "no", "no", caller="ann")
    assert breaker.state is BreakerState.CLOSED
    ask(breaker, "no", caller="ann")
    assert breaker.state is BreakerState.OPEN


def test_retry_after_is_the_time_to_the_next_trial(breaker, clock):
    ask(breaker, "no", "no", "no")
    clock.now_s += 3.2
    assert refusal_of(breaker) == 2
    clock.now_s += 1.7
    assert refusal_of(breaker) == 1
    clock.now_s += 0.1
    breaker.check()
    assert breaker.state is BreakerState.HALF_OPEN


def test_trials_are_few_and_all_of_them_must_succeed(breaker, clock, changes):
    ask(breaker, "no", "no", "no")
    clock.now_s += 5
    first, second = breaker.enter(), breaker.enter()
    assert refusal_of(breaker) == 5
    first.leave()
    third = breaker.enter()
    second.settle(Verdict.ANSWERED)
    assert breaker.state is BreakerState.HALF_OPEN
    # One has succeeded and one is under way: more would be more than are needed.
    refusal_of(breaker)
    third.settle(Verdict.ANSWERED)
    assert breaker.state is BreakerState.CLOSED
    assert changes == [("OPEN", 5), ("HALF_OPEN", 0), ("CLOSED", 0)]
    ask(breaker, "no", "no")
    assert breaker.state is BreakerState.CLOSED


def test_the_pause_doubles_while_trials_fail_up_to_a_ceiling(breaker, clock, changes):
    ask(breaker, "no", "no", "no")
    for pause_s in (5, 10, 15, 15):
        assert refusal_of(breaker) == pause_s
        clock.now_s += pause_s
        ask(breaker, "no")
    clock.now_s += 15
    ask(breaker, "ok", "ok", "no", "no", "no")
    assert refusal_of(breaker) == 5


def test_a_failed_trial_ends_the_others(breaker, clock):
    ask(breaker, "no", "no", "no")
    clock.now_s += 5
    first, second = breaker.enter(), breaker.enter()
    first.settle(Verdict.FAILED)
    second.settle(Verdict.ANSWERED)
    assert refusal_of(breaker) == 10


def test_what_was_asked_before_it_opened_no_longer_counts(breaker, clock):
    old = [breaker.enter() for _ in range(8)]
    ask(breaker, "no", "no", "no")
    for permit in old[:4]:
        permit.settle(Verdict.FAILED)
    clock.now_s += 5
    ask(breaker, "ok", "ok")
    for permit in old[4:]:
        permit.settle(Verdict.FAILED)
    assert breaker.state is BreakerState.CLOSED


def test_who_was_let_in_before_it_opened_is_not_sent_on(breaker):
    permit = breaker.enter()
    ask(breaker, "no", "no", "no")
    with pytest.raises(UpstreamDown):
        permit.begin()


def test_late_counts_only_if_nobody_was_answered_meanwhile(breaker, clock):
    late = [breaker.enter() for _ in range(6)]
    for permit in late:
        permit.begin()
    clock.now_s += 1
    ask(breaker, "ok")
    clock.now_s += 1
    for permit in late:
        permit.settle(Verdict.LATE)
    assert breaker.state is BreakerState.CLOSED
    late = [breaker.enter() for _ in range(3)]
    clock.now_s += 1
    for permit in late:
        permit.begin()
        clock.now_s += 1
        permit.settle(Verdict.LATE)
    assert breaker.state is BreakerState.OPEN


def ask_late(breaker, clock, *callers):
    for caller in callers:
        permit = breaker.enter(caller)
        permit.begin()
        clock.now_s += 1
        permit.settle(Verdict.LATE)


def test_where_callers_share_it_the_lateness_of_one_alone_never_opens_it(changes, clock):
    breaker = Breaker(LIMITS, clock, is_shared=lambda: True)
    ask_late(breaker, clock, *["slow"] * 20)
    assert breaker.state is BreakerState.CLOSED
    ask_late(breaker, clock, "other")
    assert breaker.state is BreakerState.OPEN, "it is late for everybody"


def test_failures_of_one_caller_open_it_all_the_same(clock):
    breaker = Breaker(LIMITS, clock, is_shared=lambda: True)
    for _ in range(LIMITS.num_failures):
        breaker.enter("one").settle(Verdict.FAILED)
    assert breaker.state is BreakerState.OPEN


def test_a_trial_that_streams_has_succeeded_when_it_flows(breaker, clock):
    ask(breaker, "no", "no", "no")
    clock.now_s += 5
    for permit in (breaker.enter(), breaker.enter()):
        permit.begin()
        permit.show_life()
    assert breaker.state is BreakerState.CLOSED


def test_an_outcome_is_told_once(breaker):
    permit = breaker.enter()
    for _ in range(5):
        permit.settle(Verdict.FAILED)
    assert breaker.state is BreakerState.CLOSED


def test_with_no_failures_it_never_opens(clock):
    breaker = Breaker(BreakerLimits(num_failures=0), clock)
    ask(breaker, *["no"] * 100)
    breaker.check()


@pytest.mark.parametrize(
    ("failure", "counts"),
    [
        *(
            (UpstreamFailure.of_status(status, "", b""), True)
            for status in (500, 502, 503, 504, 521)
        ),
        *(
            (UpstreamFailure.of_status(status, "9", b""), False)
            for status in (302, 400, 401, 404, 413, 422, 429)
        ),
        (UpstreamFailure.of_status(501, "", b""), False),
        *(
            (UpstreamFailure(reason), reason not in {"pool_timeout", "too_long", "stream_timeout"})
            for reason in Reason
        ),
    ],
    ids=lambda value: getattr(value, "reason", None),
)
def test_what_counts_as_a_failure(breaker, failure, counts):
    for _ in range(3):
        permit = breaker.enter()
        permit.begin()
        settle(permit, failure)
    assert (breaker.state is BreakerState.OPEN) is counts


def test_a_pause_is_as_long_as_the_upstream_asks_but_for_the_ceiling(breaker, clock):
    for asked, pause_s in (("12", 12), ("500", 15)):
        for _ in range(3):
            permit = breaker.enter()
            settle(permit, UpstreamFailure.of_status(503, asked, b""))
            if breaker.state is BreakerState.OPEN:
                break
        assert refusal_of(breaker) == pause_s
        clock.now_s += pause_s
