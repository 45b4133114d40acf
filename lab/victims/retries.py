"""When a question is put to a remote model again, and after how long: policy without effects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["Retries"]

_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Waits that double, unless the server says how long to wait.

    Attributes:
        max_attempts: how often a question is put in all.
        first_wait_s: before the second attempt; each further wait is twice as long.
        longest_wait_s: the longest wait of our own choice, and the longest that is obeyed: where
            the server asks for more, the question is given up rather than put too early.
    """

    max_attempts: int = 5
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuses a policy that never asks, or waits a negative time."""
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be positive, got {self.max_attempts}")
        if not 0 <= self.first_wait_s <= self.longest_wait_s:
            raise ValueError(f"waits must not be negative or shrink: {self}")

    def is_passing(self, status: int) -> bool:
        """Whether an HTTP status tells of a trouble that may pass: 429, or the server's own."""
        return status == _TOO_MANY_REQUESTS or 500 <= status <= 599

    def wait_s(self, num_failed: int, retry_after: str | None, now: datetime) -> float | None:
        """How long to wait before the next attempt.

        Args:
            num_failed: attempts so far, at least 1.
            retry_after: the server's header, in seconds or as a date; ignored where it is neither.
            now: the time, with a zone.

        Returns:
            Seconds, or None where there shall be no further attempt.
        """
        if num_failed >= self.max_attempts:
            return None
        told_s = _told_s(retry_after, now)
        if told_s is not None:
            return told_s if told_s <= self.longest_wait_s else None
        return min(self.first_wait_s * 2.0 ** (num_failed - 1), self.longest_wait_s)


def _told_s(retry_after: str | None, now: datetime) -> float | None:
    """RFC 9110, 10.2.3: whole seconds, or a date."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds(), 0.0)
