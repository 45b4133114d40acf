"""The batching policy by table, by property, and over a simulated minute of load."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.models.buckets import Bucket, choose_bucket
from codefend.models.purifier.strengths import Strength
from codefend.service.queueing.batching import BatchLimits, Waiting, plan_batch

LIMITS = BatchLimits(max_images=4, max_pixels=1 << 20, wait_fraction=0.1, join_waste=0.3)
SMALL, MIDDLE, WIDE, LARGE = (
    Bucket(128, 128),
    Bucket(512, 512),
    Bucket(512, 640),
    Bucket(1024, 1024),
)


def one_second_per_image(_, num_images, times_steps):
    return float(num_images * times_steps)


def line(*buckets, queued_at_s=0.0, deadline_s=100.0):
    return [Waiting(key, bucket, queued_at_s, deadline_s) for key, bucket in enumerate(buckets)]


def plan(waiting, now_s=0.0, num_arriving=0, limits=LIMITS, turn_of=lambda _: 0):
    return plan_batch(waiting, now_s, limits, one_second_per_image, num_arriving, turn_of)


def test_nobody_waits():
    assert plan([]) is None


@pytest.mark.parametrize(
    ("buckets", "bucket", "keys"),
    [
        ([SMALL], SMALL, (0,)),
        ([MIDDLE, SMALL, SMALL], SMALL, (1, 2)),
        ([MIDDLE, SMALL], MIDDLE, (0,)),  # of one size: the earliest arrival
        ([SMALL] * 6, SMALL, (0, 1, 2, 3)),  # bounded by images
        ([LARGE] * 3, LARGE, (0,)),  # bounded by pixels
        ([MIDDLE, WIDE, MIDDLE], WIDE, (1, 0, 2)),  # the smaller ones join the larger
        ([SMALL, WIDE], SMALL, (0,)),  # too much padding to join
    ],
)
def test_the_largest_group_goes_first(buckets, bucket, keys):
    chosen = plan(line(*buckets))
    assert (chosen.bucket, chosen.keys, chosen.wait_s) == (bucket, keys, 0)


def test_it_waits_a_part_of_its_own_time_only_while_someone_may_come():
    waiting = line(SMALL, SMALL)
    assert plan(waiting, num_arriving=1).wait_s == pytest.approx(0.2)
    assert plan(waiting, now_s=0.15, num_arriving=1).wait_s == pytest.approx(0.05)
    assert plan(waiting, now_s=0.25, num_arriving=1).wait_s == 0
    assert plan(waiting, num_arriving=0).wait_s == 0
    assert plan(line(*[SMALL] * 4), num_arriving=1).wait_s == 0, "a full batch never waits"


def in_order(*callers):
    return lambda flow: (callers.index(flow[0]),)


def test_whoever_has_waited_long_goes_before_larger_groups():
    waiting = [Waiting(9, LARGE, 0, 100), *line(SMALL, SMALL, SMALL, queued_at_s=40)]
    assert plan(waiting, now_s=49).bucket == SMALL
    assert plan(waiting, now_s=51).keys == (9,)


def test_whoever_has_waited_long_goes_out_of_no_turn_but_its_callers_own():
    flood = [Waiting(key, SMALL, 0, 100, "flood") for key in range(4)]
    waiting = [*flood, Waiting(8, LARGE, 0, 100, "other"), Waiting(9, SMALL, 45, 145, "other")]
    turns = in_order("other", "flood")
    assert 9 in plan(waiting, now_s=49, turn_of=turns).keys
    assert plan(waiting, now_s=51, turn_of=turns).keys == (8,)


def test_images_of_a_failed_batch_run_with_nobody_else():
    waiting = [
        *line(SMALL, MIDDLE),
        Waiting(7, SMALL, 0, 100, group=1),
        Waiting(8, SMALL, 0, 100, group=2),
        Waiting(9, WIDE, 0, 100, group=1),
    ]
    chosen = plan(waiting)
    assert (chosen.keys, chosen.bucket) == ((7, 9), WIDE)


def test_callers_fill_a_batch_in_turns():
    flood = [Waiting(key, SMALL, 0, 100, "flood") for key in range(8)]
    waiting = [*flood, *(Waiting(key, SMALL, 1, 101, "other") for key in (8, 9, 10))]
    assert plan(waiting).keys == (0, 8, 1, 9)
    assert plan(waiting, turn_of=in_order("other", "flood")).keys == (8, 0, 9, 1)


def test_whose_turn_it_is_decides_the_shape_even_against_a_larger_group():
    flood = [Waiting(key, SMALL, 0, 100, "flood") for key in range(8)]
    waiting = [*flood, Waiting(9, LARGE, 1, 101, "other")]
    assert plan(waiting, turn_of=in_order("other", "flood")).keys == (9,)
    assert plan(waiting, turn_of=in_order("flood", "other")).bucket == SMALL


@given(
    st.lists(
        st.tuples(
            st.integers(1, 1100), st.integers(1, 1100), st.floats(0, 50), st.sampled_from("abc")
        ),
        max_size=30,
    ),
    st.floats(50, 120),
    st.integers(0, 3),
)
def test_every_plan_keeps_the_bounds(images, now_s, num_arriving):
    waiting = [
        Waiting(key, choose_bucket(height, width), queued_at_s, queued_at_s + 60, caller)
        for key, (height, width, queued_at_s, caller) in enumerate(images)
    ]
    chosen = plan(waiting, now_s, num_arriving)
    if not waiting:
        assert chosen is None
        return
    assert len(set(chosen.keys)) == len(chosen.keys) > 0
    assert len(chosen.keys) <= LIMITS.capacity(chosen.bucket)
    for key in chosen.keys:
        assert chosen.bucket.holds(waiting[key].bucket)
        assert chosen.bucket.num_pixels <= 1.3 * waiting[key].bucket.num_pixels
    longest_s = LIMITS.wait_fraction * one_second_per_image(None, len(chosen.keys), 1)
    assert 0 <= chosen.wait_s <= longest_s


def simulate(num_clients, seconds_per_pixel, duration_s, seed=0):
    """Clients that each send one image after another; returns batches and waiting times."""
    limits = BatchLimits(8, 4_194_304, 0.1, 0.3)
    sizes = [(128, 128), (480, 640), (512, 512), (768, 1024)]
    chance = random.Random(seed)
    now_s, keys, waiting, batches, waits_s = 0.0, iter(range(10**9)), [], [], []

    def send():
        waiting.append(Waiting(next(keys), choose_bucket(*chance.choice(sizes)), now_s, now_s + 60))

    for _ in range(num_clients):
        send()
    while now_s < duration_s:
        chosen = plan_batch(waiting, now_s, limits, lambda *_: 1.0, 0)
        batch = [image for image in waiting if image.key in chosen.keys]
        waiting[:] = [image for image in waiting if image.key not in chosen.keys]
        now_s += seconds_per_pixel * chosen.bucket.num_pixels * len(batch)
        batches.append(batch)
        for image in batch:
            waits_s.append(now_s - image.queued_at_s)
            send()
    return batches, waits_s


def test_batches_form_across_sizes_under_load_and_nobody_starves():
    batches, waits_s = simulate(32, 0.5 / (512 * 512), 600)
    assert sum(map(len, batches)) / len(batches) > 4
    assert any(len({image.bucket for image in batch}) > 1 for batch in batches)
    assert max(waits_s) < 60


def tiles(num, caller="", picture=7, first_key=100):
    return [Waiting(first_key + k, SMALL, 0, 100, caller, picture) for k in range(num)]


def test_a_batch_with_tiles_is_short():
    limits = replace(LIMITS, max_tiled_pixels=2 * SMALL.num_pixels)
    assert plan(tiles(9), limits=limits).keys == (100, 101)
    whole = line(SMALL, SMALL, SMALL)
    assert plan([*whole, *tiles(9)], limits=limits).keys == (0, 100, 1, 2), "tiles join no more"
    tiny = replace(LIMITS, max_tiled_pixels=1)
    assert len(plan(tiles(9), limits=tiny).keys) == 1, "one tile runs, however long it takes"


def test_tiles_wait_for_nobody():
    assert plan(tiles(1), num_arriving=3).wait_s == 0
    assert plan(line(SMALL), num_arriving=3).wait_s > 0


def test_a_picture_in_tiles_leads_when_it_is_its_turn_and_not_by_its_number():
    waiting = [*tiles(9), Waiting(9, LARGE, 1, 101, "")]
    turns = {("", 7): (0, 1), ("", None): (0, 0)}
    assert plan(waiting, turn_of=turns.__getitem__).keys == (9,)
    turns["", None] = (0, 2)
    assert 9 not in plan(waiting, turn_of=turns.__getitem__).keys


def test_a_batch_is_of_one_strength():
    strengths = (Strength.STRONG, Strength.STANDARD, Strength.STRONG, Strength.LIGHT)
    waiting = [Waiting(key, SMALL, key, 100, strength=each) for key, each in enumerate(strengths)]
    assert plan(waiting, now_s=10).keys == (0, 2)
    assert plan(waiting[1:], now_s=10).keys == (1,)


def test_images_that_pass_the_network_twice_fill_half_a_batch_and_wait_twice_as_long():
    limits = replace(LIMITS, max_pixels_in_time=2 * SMALL.num_pixels)
    strong = [Waiting(key, SMALL, 0, 100, strength=Strength.STRONG) for key in range(3)]
    assert plan(line(SMALL, SMALL, SMALL), limits=limits).keys == (0, 1)
    assert plan(strong, limits=limits).keys == (0,)
    assert plan(strong).keys == (0, 1, 2), "memory is that of one pass"
    assert plan(line(SMALL, SMALL), num_arriving=1).wait_s == pytest.approx(0.2)
    assert plan(strong[:2], num_arriving=1).wait_s == pytest.approx(0.4)


def test_a_batch_is_as_strong_as_whoever_has_waited_too_long():
    late = Waiting(9, SMALL, 0, 100, strength=Strength.STRONG)
    flood = [Waiting(key, SMALL, 45, 145) for key in range(3)]
    assert plan([*flood, late], now_s=49).keys == (0, 1, 2)
    assert plan([*flood, late], now_s=51).keys == (9,)
