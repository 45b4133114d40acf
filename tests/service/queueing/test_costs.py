from math import inf

import pytest

from codefend.models.buckets import Bucket
from codefend.service.fairness import retry_after_s
from codefend.service.queueing.estimates import BatchCosts, Throughput

SMALL, LARGE = Bucket(64, 64), Bucket(128, 128)


def test_estimates_follow_measurements_and_scale_with_pixels_elsewhere():
    costs = BatchCosts()
    assert costs.estimate_s(SMALL, 1) == 0
    assert costs.pixels_within(1) == inf
    costs.suppose(1 / SMALL.num_pixels)
    assert costs.estimate_s(LARGE, 2) == pytest.approx(8)
    costs.record(SMALL, 2, 4.0)
    assert costs.estimate_s(SMALL, 2) == 4
    costs.record(SMALL, 2, 5.0)
    assert 4 < costs.estimate_s(SMALL, 2) < 5
    assert costs.estimate_s(SMALL, 1) > 1, "slower than supposed, and so for other batches too"
    assert costs.pixels_within(6 * costs.seconds_per_pixel(1)) == pytest.approx(6)
    halved = costs.estimate_s(SMALL, 1) / 2
    assert SMALL.num_pixels * costs.seconds_per_pixel(2) == pytest.approx(halved)


def test_a_batch_is_hung_when_it_takes_many_times_what_such_batches_take():
    costs = BatchCosts()
    assert costs.hung_after_s(SMALL, 1, (2, 50)) == 50, "nothing is known yet"
    costs.record(SMALL, 1, 1.0)
    assert costs.hung_after_s(SMALL, 1, (2, 50)) == pytest.approx(10)
    assert costs.hung_after_s(LARGE, 1, (2, 50)) == pytest.approx(40)
    assert costs.hung_after_s(LARGE, 2, (2, 50)) == 50
    assert costs.hung_after_s(SMALL, 1, (30, 50)) == 30


def test_throughput_forgets():
    now_s = [0.0]
    rate = Throughput(lambda: now_s[0], window_s=10)
    assert rate.per_second() == 0
    now_s[0] = 5
    rate.record(10)
    assert rate.per_second() == 2
    now_s[0] = 14
    assert rate.per_second() == 1
    now_s[0] = 16
    assert rate.per_second() == 0


@pytest.mark.parametrize(
    ("depth", "rate", "seconds"), [(10, 0, 1), (10, 2, 5), (11, 2, 6), (1, 100, 1), (9999, 1, 120)]
)
def test_retry_after(depth, rate, seconds):
    assert retry_after_s(depth, rate) == seconds


def test_the_least_an_image_takes_is_known_after_a_batch_and_stays_the_best():
    costs = BatchCosts()
    costs.suppose(3 / LARGE.num_pixels)
    assert costs.least_s(LARGE.num_pixels) == 0, "nothing would correct a warm-up in a busy moment"
    costs.record(SMALL, 1, 1.0)
    assert costs.least_s(LARGE.num_pixels) == 3, "four by a small one, which costs more a pixel"
    costs.record(LARGE, 1, 9.0)
    costs.record(LARGE, 1, 2.0)
    assert costs.least_s(LARGE.num_pixels) == 2
    costs.begin_anew()
    assert costs.least_s(LARGE.num_pixels) == 0


def test_small_batches_hardly_move_what_a_pixel_costs():
    costs = BatchCosts()
    costs.suppose(1e-6)
    for _ in range(20):
        costs.record(SMALL, 1, 4e-6 * SMALL.num_pixels)  # mostly the batch itself
    assert costs.seconds_per_pixel(1) < 1.4e-6
    for _ in range(20):
        costs.record(Bucket(512, 512), 4, 4e-6 * 4 * 512 * 512)
    assert costs.seconds_per_pixel(1) > 3.9e-6


def test_a_picture_that_passes_the_network_twice_costs_twice():
    costs = BatchCosts()
    costs.suppose(1 / SMALL.num_pixels)
    assert costs.estimate_s(SMALL, 3, 2) == pytest.approx(6)
    costs.record(LARGE, 1, 8.0, times_steps=2)
    assert costs.estimate_s(LARGE, 1, 2) == 8
    assert costs.estimate_s(LARGE, 1) == pytest.approx(4), "as a single pass: learned from nothing"
    assert costs.hung_after_s(LARGE, 1, (2, 500), 2) == 10 * 8
    assert costs.least_s(2 * LARGE.num_pixels) == pytest.approx(8)
