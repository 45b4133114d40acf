import pytest

from service.admit.quota import Quota
from service.errors import RateLimited


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_a_minutes_worth_at_once_and_then_one_after_another():
    clock = Clock()
    quota = Quota(4, clock)
    for _ in range(4):
        quota.check("ann")
        quota.spend("ann")
    with pytest.raises(RateLimited) as refusal:
        quota.check("ann")
    assert refusal.value.status == 429
    assert refusal.value.headers()["Retry-After"] == "15"
    clock.now_s = 0.5
    with pytest.raises(RateLimited) as refusal:
        quota.check("ann")
    assert refusal.value.headers()["Retry-After"] == "15", "14.5, and never too early"
    clock.now_s = 15.0
    quota.check("ann")
    quota.spend("ann")
    with pytest.raises(RateLimited):
        quota.check("ann")


def test_keys_have_quotas_of_their_own():
    quota = Quota(1, Clock())
    quota.spend("ann")
    quota.check("bob")
    with pytest.raises(RateLimited):
        quota.check("ann")


def test_what_was_not_let_in_costs_nothing():
    quota = Quota(1, Clock())
    for _ in range(9):
        quota.check("ann")


def test_a_long_pause_saves_up_a_minute_and_no_more():
    clock = Clock()
    quota = Quota(2, clock)
    quota.spend("ann")
    clock.now_s = 3600
    quota.spend("ann")
    quota.spend("ann")
    with pytest.raises(RateLimited):
        quota.check("ann")


def test_off_by_default():
    quota = Quota(None, Clock())
    for _ in range(1000):
        quota.check("ann")
        quota.spend("ann")
