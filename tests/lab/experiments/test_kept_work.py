"""What was made once is not made again: attacked images, outcomes, and what they are keyed by."""

from dataclasses import dataclass

import numpy as np
import pytest

from codefend.lab.baselines.compression import jpeg
from codefend.lab.baselines.filters import gaussian_noise
from codefend.lab.experiments.craft import SEEDS_APART, craft
from codefend.lab.experiments.responder import Responder
from codefend.lab.experiments.store import Store, digest_of
from codefend.models.codec import encode_image


@dataclass(frozen=True)
class Thing:
    image: np.ndarray


@pytest.fixture
def things():
    rng = np.random.default_rng(0)
    return [Thing(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(5)]


def attack(batch):
    return [encode_image(thing.image ^ batch.seed % 256) for thing in batch.items]


def test_batches_have_their_own_seeds_and_resume(things, tmp_path):
    seen = []

    def counted(batch):
        seen.append((batch.start, batch.seed, len(batch.items)))
        return attack(batch)

    options = {"made_by": "xor", "seed": 3, "batch_size": 2}
    first = craft(Store(tmp_path), "xor", things, counted, **options)
    assert seen == [
        (0, 3 * SEEDS_APART, 2),
        (2, 3 * SEEDS_APART + 1, 2),
        (4, 3 * SEEDS_APART + 2, 1),
    ]
    seen.clear()
    removed = sorted((tmp_path / "xor").glob("*/001.png"))[0]
    removed.unlink()
    again = craft(Store(tmp_path), "xor", things, counted, **options)
    assert len(seen) == 1
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)


def test_whatever_decides_an_image_is_in_its_key(things, tmp_path):
    made = {"made_by": "xor", "seed": 0}
    for change in ({}, {"made_by": "and"}, {"seed": 1}):
        craft(Store(tmp_path), "xor", things[:2], attack, **(made | change))
    craft(Store(tmp_path), "xor", things[1:3], attack, **made)
    assert len(list((tmp_path / "xor").iterdir())) == 4


def test_digests_tell_values_apart_and_refuse_what_says_nothing():
    array = np.zeros((2, 3), np.uint8)
    parts = [array, array.T, array.astype(np.int64), array.tobytes(), Thing(array), {"a": [array]}]
    assert len({digest_of(part) for part in parts}) == len(parts)
    assert digest_of(array) == digest_of(array.copy())
    with pytest.raises(TypeError, match="give its parts"):
        digest_of(object())


def test_outcomes_are_asked_once_a_seed_and_noise_is_shared(things, tmp_path, monkeypatch):
    images = [thing.image for thing in things]
    responder, asked = Responder(Store(tmp_path)), []

    def ask(seen):
        asked.append(int(seen[0].sum()))
        return asked[-1]

    noise = gaussian_noise(0.1)
    found = responder(noise, images, ask, asked="how bright?", seeds=2)
    assert len(set(found)) == len(asked) == 2
    monkeypatch.setattr("codefend.lab.experiments.responder.defend", lambda *_, **__: 1 / 0)
    assert responder(noise, images, ask, asked="how bright?", seeds=2) == found
    assert responder(noise, images, ask, asked="how dark?", seeds=2) == found  # the same noise
    assert len(asked) == 4


def test_a_still_defence_is_asked_about_once(things, tmp_path):
    images = [thing.image for thing in things]
    assert len(Responder(Store(tmp_path))(jpeg(50), images, len, asked="?", seeds=3)) == 1
