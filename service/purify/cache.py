"""Purified pixels of late, so that a client who resends its history pays for each image once.

Two uploads are the same when the same caller sends the same bytes of a file. Nobody is answered
with what another caller sent: whether an image was seen before is a secret of its own.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codefend.service.stages import EngineFacts

__all__ = ["PurifiedCache", "Replay"]

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Replay:
    """What is replayed.

    Attributes:
        pixels: (H, W, 3) uint8, purified.
        suspicion: Of the upload; None where there was no detector.
        engine: What purified it.
    """

    pixels: NDArray[np.uint8]
    suspicion: float | None
    engine: EngineFacts


@dataclass(frozen=True, slots=True)
class _Entry:
    replay: Replay
    expires_at_s: float


class PurifiedCache:
    """Keeps the most recently used pictures; all methods belong to the event loop's thread."""

    def __init__(
        self, max_bytes: int, lifetime_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins empty.

        Args:
            max_bytes: Most memory of all pictures together; 0 keeps none.
            lifetime_s: How long a picture is replayed. Its noise is drawn anew afterwards.
            clock: Seconds.
        """
        self._max_bytes = max_bytes
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._num_bytes = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is kept at all."""
        return self._max_bytes > 0

    @property
    def num_bytes(self) -> int:
        """Memory of all pictures together."""
        return self._num_bytes

    def find(self, caller: str, sha256: str) -> Replay | None:
        """What a caller's file was purified to; None where there is nothing to replay.

        Args:
            caller: Whose file it is.
            sha256: Of the file's bytes.
        """
        entry = self._entries.get((caller, sha256))
        if entry is None:
            return None
        if entry.expires_at_s <= self._clock():
            self._drop((caller, sha256))
            return None
        self._entries.move_to_end((caller, sha256))
        return entry.replay

    def keep(self, caller: str, sha256: str, replay: Replay) -> None:
        """Keeps a purified picture, at the expense of those unused for longest."""
        num_bytes = replay.pixels.nbytes
        if num_bytes > self._max_bytes:
            return
        key = (caller, sha256)
        if key in self._entries:
            self._drop(key)
        self._entries[key] = _Entry(replay, self._clock() + self._lifetime_s)
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forgets all pictures."""
        self._entries.clear()
        self._num_bytes = 0

    def _drop(self, key: Key) -> None:
        self._num_bytes -= self._entries.pop(key).replay.pixels.nbytes
