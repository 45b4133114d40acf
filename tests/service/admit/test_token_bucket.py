import pytest

from codefend.service.admit.limits import TokenBucket
from codefend.service.errors import RateLimited


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_a_minutes_worth_at_once_and_then_one_after_another():
    clock = Clock()
    bucket = TokenBucket(clock)
    for _ in range(4):
        bucket.check("ann", 4)
        bucket.spend("ann", 4)
    with pytest.raises(RateLimited) as refusal:
        bucket.check("ann", 4)
    assert refusal.value.status == 429
    assert refusal.value.headers()["Retry-After"] == "15"
    clock.now_s = 0.5
    with pytest.raises(RateLimited) as refusal:
        bucket.check("ann", 4)
    assert refusal.value.headers()["Retry-After"] == "15", "14.5, and never too early"
    clock.now_s = 15.0
    bucket.check("ann", 4)
    bucket.spend("ann", 4)
    with pytest.raises(RateLimited):
        bucket.check("ann", 4)


def test_keys_have_quotas_of_their_own():
    bucket = TokenBucket(Clock())
    bucket.spend("ann", 1)
    bucket.check("bob", 1)
    with pytest.raises(RateLimited):
        bucket.check("ann", 1)


def test_what_was_not_let_in_costs_nothing():
    bucket = TokenBucket(Clock())
    for _ in range(9):
        bucket.check("ann", 1)


def test_a_long_pause_saves_up_a_minute_and_no_more():
    clock = Clock()
    bucket = TokenBucket(clock)
    bucket.spend("ann", 2)
    clock.now_s = 3600
    bucket.spend("ann", 2)
    bucket.spend("ann", 2)
    with pytest.raises(RateLimited):
        bucket.check("ann", 2)


def test_off_by_default():
    bucket = TokenBucket(Clock())
    for _ in range(1000):
        bucket.check("ann", None)
        bucket.spend("ann", None)


def test_a_rate_that_is_raised_or_lowered_holds_at_once():
    clock = Clock()
    bucket = TokenBucket(clock)
    bucket.spend("ann", 60)
    bucket.check("ann", 1)
    bucket.spend("ann", 1)
    with pytest.raises(RateLimited):
        bucket.check("ann", 1)
    clock.now_s = 1.0
    bucket.check("ann", 60)
