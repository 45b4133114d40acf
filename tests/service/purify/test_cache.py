import numpy as np
import pytest

from codefend.models.purifier.strengths import Strength
from codefend.service.purify.stage import PurifiedCache, Replay
from codefend.service.stages import EngineFacts

STANDARD = Strength.STANDARD
ENGINE = EngineFacts("fake", "1", steps=1, noise_level=0.1, device="cpu")


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def picture(value, num_bytes=300):
    return Replay(np.full((num_bytes // 3, 1, 3), value, np.uint8), value / 10, ENGINE)


@pytest.fixture
def clock():
    return Clock()


def test_a_caller_finds_their_own_pictures_only():
    cache = PurifiedCache(1000, 10)
    cache.keep("ann", "hash", STANDARD, picture(1))
    assert np.array_equal(cache.find("ann", "hash", STANDARD).pixels, picture(1).pixels)
    assert cache.find("ann", "hash", STANDARD).suspicion == 0.1
    assert cache.find("bob", "hash", STANDARD) is None
    assert cache.find("ann", "other", STANDARD) is None


def test_a_picture_is_replayed_for_its_lifetime_from_its_purification_on(clock):
    cache = PurifiedCache(1000, 10, clock)
    cache.keep("", "hash", STANDARD, picture(1))
    clock.now_s = 9.9
    assert cache.find("", "hash", STANDARD) is not None
    clock.now_s = 10.0
    assert cache.find("", "hash", STANDARD) is None
    assert cache.num_bytes == 0


def test_the_least_recently_used_makes_room():
    cache = PurifiedCache(900, 10)
    for name in "abc":
        cache.keep("", name, STANDARD, picture(1))
    cache.find("", "a", STANDARD)
    cache.keep("", "d", STANDARD, picture(1))
    found = [cache.find("", name, STANDARD) is not None for name in "abcd"]
    assert found == [True, False, True, True]
    assert cache.num_bytes == 900


def test_a_newer_picture_of_the_same_file_replaces_the_older():
    cache = PurifiedCache(1000, 10)
    cache.keep("", "a", STANDARD, picture(1))
    cache.keep("", "a", STANDARD, picture(2, 600))
    assert cache.find("", "a", STANDARD).pixels[0, 0, 0] == 2
    assert cache.num_bytes == 600


@pytest.mark.parametrize("max_bytes", [0, 299])
def test_what_does_not_fit_is_not_kept(max_bytes):
    cache = PurifiedCache(max_bytes, 10)
    cache.keep("", "a", STANDARD, picture(1))
    assert cache.find("", "a", STANDARD) is None


def test_cleared_it_has_its_memory_back():
    cache = PurifiedCache(300, 10)
    cache.keep("ann", "hash", STANDARD, picture(1))
    cache.clear()
    assert (cache.find("ann", "hash", STANDARD), cache.num_bytes) == (None, 0)
    cache.keep("ann", "hash", STANDARD, picture(2))
    assert cache.find("ann", "hash", STANDARD).suspicion == 0.2


def test_a_picture_is_replayed_at_its_own_strength_only():
    cache = PurifiedCache(1000, 10)
    cache.keep("ann", "hash", STANDARD, picture(1))
    assert cache.find("ann", "hash", STANDARD) is not None
    assert cache.find("ann", "hash", Strength.STRONG) is None
