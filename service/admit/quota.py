"""How many requests a key may send a minute: a bucket of tokens each, pure but for its clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from codefend.service.errors import RateLimited

__all__ = ["Quota"]

SECONDS_PER_MINUTE = 60.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at_s: float


class Quota:
    """Tokens by caller; a full bucket holds a minute's worth, and every request costs one.

    `per_minute` is the caller's rate at present; None for any number.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def check(self, caller: str, per_minute: int | None) -> None:
        """Lets a caller pass who has a token; it is not spent yet.

        Raises:
            RateLimited: There is none, and Retry-After says when there will be.
        """
        if per_minute is None:
            return
        missing = 1 - self._fill(caller, per_minute).tokens
        if missing > 0:
            wait_s = missing * SECONDS_PER_MINUTE / per_minute
            raise RateLimited(retry_after_s=max(1, ceil(wait_s)))

    def spend(self, caller: str, per_minute: int | None) -> None:
        """Takes a token, now that the request was let in: one that was refused costs nothing."""
        if per_minute is not None:
            self._fill(caller, per_minute).tokens -= 1

    def _fill(self, caller: str, per_minute: int) -> _Bucket:
        now_s = self._clock()
        bucket = self._buckets.setdefault(caller, _Bucket(per_minute, now_s))
        gained = (now_s - bucket.filled_at_s) * per_minute / SECONDS_PER_MINUTE
        bucket.tokens = min(per_minute, bucket.tokens + gained)
        bucket.filled_at_s = now_s
        return bucket
