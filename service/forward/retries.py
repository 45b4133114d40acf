"""Which requests may be sent again, and when: pure policy.

A chat completion costs money and time, may have effects, and may be what killed the upstream. So it
is sent again only if it is *certain* that the upstream has none of it: no connection came about, or
not even the head of the request could be written into one that had been idle. A connection that is
closed after the whole request went out looks the same whether it was stale or the model died of the
request, so that is not certain (RFC 9110, section 9.2.2, and what Go's net/http does); idle
connections are given up before servers close them instead. Asking for the list of models changes
nothing, and may be repeated.

The pauses have full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015).
"""

import random
from collections.abc import Callable, Iterator

from codefend.service.forward.failures import BadStatus, Failure, Reason

__all__ = ["may_retry", "pauses"]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
_PASSING_STATUSES = frozenset({500, 502, 503, 504})
_PASSING_REASONS = frozenset(
    {
        Reason.CONNECT,
        Reason.CONNECT_TIMEOUT,
        Reason.WRITE_TIMEOUT,
        Reason.FIRST_BYTE_TIMEOUT,
        Reason.HUNG_UP,
    }
)


def may_retry(failure: Failure, *, is_idempotent: bool) -> bool:
    """Whether the request may be sent again.

    Args:
        failure: What went wrong; no byte of an answer has been passed on.
        is_idempotent: Whether it does no harm if the upstream gets it twice.
    """
    if isinstance(failure, BadStatus):
        return is_idempotent and failure.status in _PASSING_STATUSES
    return failure.is_unsent or (is_idempotent and failure.reason in _PASSING_REASONS)


def pauses(
    num_retries: int, draw: Callable[[float, float], float] = random.uniform
) -> Iterator[float]:
    """Yields the seconds to wait before each retry.

    Args:
        num_retries: How many there may be.
        draw: A number between two.
    """
    for number in range(num_retries):
        yield draw(0.0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**number))
