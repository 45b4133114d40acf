"""An engine without weights: it inverts images, so that every byte of an answer can be checked.

Certain colours in the first pixel make it misbehave. Its options come as JSON in `purifier`, or in
`engine.json` of a directory. With a `mark` its pictures show which engine made them.
"""

import json
import os
import time
from pathlib import Path

import numpy as np

from codefend.models.purifier.strengths import Strength, levels_by_strength
from codefend.service.purify.engine import DeviceOutOfMemory
from codefend.service.stages import EngineFacts

IMPORT_PATH = "tests.service.fake_engine:load_engine"

KILL = (255, 0, 1)
KILL_ONCE = (255, 0, 2)
FAIL = (255, 0, 3)
HANG_ONCE = (255, 0, 4)
MARKS = {Strength.LIGHT: 30, Strength.STRONG: 120}
SICKEN_ONCE = (255, 0, 5)


class FakeEngine:
    def __init__(
        self,
        seconds=0.0,
        flag=None,
        memory_pixels=None,
        suspects=False,
        mark=None,
        strengths=tuple(Strength),
    ):
        version = "1" if mark is None else str(mark)
        levels = levels_by_strength(0.1, 1, [Strength(each) for each in strengths])
        self.facts = EngineFacts("fake", version, 1, 0.1, "cpu", levels=levels)
        self._mark = mark
        self._suspects = suspects
        self._seconds = seconds
        self._flag = Path(flag) if flag else None
        self._memory_pixels = memory_pixels
        self._is_sick = False

    def purify(self, images, strength=Strength.STANDARD):
        if self._memory_pixels and images[..., 0].size > self._memory_pixels:
            raise DeviceOutOfMemory
        for image in images:
            self._misbehave(tuple(image[0, 0]))
        time.sleep(self._seconds)
        purified = np.uint8(255) - images
        if self._mark is not None:
            purified[:, 0, 1] = self._mark
        if strength is not Strength.STANDARD:
            purified[:, 0, :, 2] = MARKS[strength]
        return purified

    def suspect(self, upload, purified):
        """The level of red in the last pixel, if it is to suspect anything."""
        assert self._mark is not None or np.array_equal(purified[1:], np.uint8(255) - upload[1:])
        return float(upload[-1, -1, 0]) / 255 if self._suspects else None

    def _misbehave(self, colour):
        if colour == KILL:
            os._exit(9)
        if colour in {KILL_ONCE, HANG_ONCE, SICKEN_ONCE} and not self._flag.exists():
            self._flag.touch()
            if colour == KILL_ONCE:
                os._exit(9)
            if colour == HANG_ONCE:
                time.sleep(3600)
            self._is_sick = True
        if colour == FAIL or self._is_sick:
            raise RuntimeError("told to fail")


class SpoilingEngine(FakeEngine):
    def purify(self, images, strength=Strength.STANDARD):
        return np.zeros_like(images)

    def suspect(self, upload, purified):
        return None


def load_engine(options):
    directory = Path(options.purifier)
    if options.purifier.startswith("{"):
        given = json.loads(options.purifier)
    else:
        file = directory / "engine.json"
        given = json.loads(file.read_text()) if file.exists() else {}
    if given.pop("broken", False):
        raise RuntimeError("told not to load")
    if given.pop("spoils", False):
        return SpoilingEngine(**given)
    while given.pop("waits", False):  # until it is told otherwise, or for ever
        time.sleep(0.02)
        given = json.loads(file.read_text())
    return FakeEngine(**given)


def marked(pixels, colour):
    """The same picture with a first pixel that makes the engine misbehave."""
    pixels = pixels.copy()
    pixels[0, 0] = colour
    return pixels
