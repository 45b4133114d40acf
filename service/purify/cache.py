"""Purified pixels of late, so that a client who resends its history pays for each image once.

Two uploads are the same when the same caller sends the same bytes of a file. Nobody is answered
with what another caller sent: whether an image was seen before is a secret of its own.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cachetools import TTLCache
from numpy.typing import NDArray

from codefend.service.stages import EngineFacts

__all__ = ["PurifiedCache", "Replay"]


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


class PurifiedCache:
    """Keeps the most recently used pictures; all methods belong to the event loop's thread.

    Attributes:
        is_on: Whether anything is kept at all.
    """

    def __init__(
        self, max_bytes: int, lifetime_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins empty.

        Args:
            max_bytes: Most memory of all pictures together; 0 keeps none.
            lifetime_s: How long a picture is replayed. Its noise is drawn anew afterwards.
            clock: Seconds.
        """
        self.is_on = max_bytes > 0
        self._replays: TTLCache[tuple[str, str], Replay] = TTLCache(
            max_bytes, lifetime_s, clock, getsizeof=lambda replay: replay.pixels.nbytes
        )

    @property
    def num_bytes(self) -> int:
        """Memory of all pictures together."""
        return int(self._replays.currsize)

    def find(self, caller: str, sha256: str) -> Replay | None:
        """What a caller's file was purified to; None where there is nothing to replay.

        Args:
            caller: Whose file it is.
            sha256: Of the file's bytes.
        """
        return self._replays.get((caller, sha256))

    def keep(self, caller: str, sha256: str, replay: Replay) -> None:
        """Keeps a purified picture, at the expense of those unused for longest."""
        if replay.pixels.nbytes <= self._replays.maxsize:
            self._replays[caller, sha256] = replay

    def clear(self) -> None:
        """Forgets all pictures."""
        self._replays.clear()
