"""What can go wrong between the service and an upstream, and what follows from it.

`CONSEQUENCES` is the one table: a row for each reason says what the client gets, what the breaker
learns, and whether the request may be sent again. Metrics and logs name the reasons. What was said
meanwhile is no part of them: an upstream's words may quote a prompt, an address or a key.

A chat completion costs money and time, may have effects, and may be what killed the upstream. So it
is sent again only if it is *certain* that the upstream has none of it: no connection came about, or
not even the head of the request could be written into one that had been idle. A connection that is
closed after the whole request went out looks the same whether it was stale or the model died of the
request, so that is not certain (RFC 9110, section 9.2.2, and what Go's net/http does); idle
connections are given up before servers close them instead. Asking for the list of models changes
nothing, and may be repeated.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import httpx

from codefend.service.errors import (
    ProtocolNotServed,
    TryLater,
    UpstreamBusy,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnavailable,
    UpstreamUnprocessable,
)
from codefend.service.forward.breaker import BreakerPermit, Verdict
from codefend.service.forward.refusals import KNOWN_CODES, Refusal, lacks_path, read_refusal
from codefend.service.tracing import passed_on_headers

__all__ = [
    "CONSEQUENCES",
    "NONSENSE",
    "Consequence",
    "Reason",
    "UpstreamFailure",
    "as_failure",
    "error_from",
    "may_retry",
    "pauses",
    "settle",
]

# What reading an answer raises where it is not of the shape that it should be.
NONSENSE = (ValueError, RecursionError, LookupError, TypeError, AttributeError)
DEFAULT_RETRY_AFTER_S = 5
MAX_RETRY_AFTER_S = 600
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
NOTHING_SAID = Refusal()


class Reason(StrEnum):
    """Label of `codefend_upstream_errors_total`, beside `status_500` and its kind."""

    # Before a byte of the request went out
    POOL_TIMEOUT = "pool_timeout"
    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect_timeout"
    # Before the head of an answer was there
    WRITE_TIMEOUT = "write_timeout"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    HUNG_UP = "hung_up"
    PROTOCOL = "protocol"
    # In the answer
    READ_TIMEOUT = "read_timeout"
    STREAM_TIMEOUT = "stream_timeout"
    CUT = "cut"
    TOO_LONG = "too_long"
    ENCODED = "encoded"
    NONSENSE = "nonsense"
    ERROR_EVENT = "error_event"
    # The request's own deadline passed while the upstream had it
    DEADLINE = "deadline"


class UpstreamFailure(Exception):
    """One of the reasons came true. Clients never get it: `Upstream` makes an error of it.

    Attributes:
        reason: A `Reason`, or `status_` and a number.
        is_unsent: Whether the upstream certainly has no request to answer.
        retry_after: The header of that name, or nothing.
        refusal: What the upstream said of it.
        lacks_path: Whether it has nothing at the path.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_unsent: bool = False,
        retry_after: str = "",
        refusal: Refusal = NOTHING_SAID,
    ) -> None:
        super().__init__(reason)
        self.reason = str(reason)
        self.is_unsent = is_unsent
        self.retry_after = retry_after
        self.refusal = refusal
        self.lacks_path = False

    @classmethod
    def of_status(cls, status: int, retry_after: str, said: bytes) -> "UpstreamFailure":
        """The upstream answered, but not with a success."""
        refusal = read_refusal(status, said)
        failure = cls(f"status_{status}", retry_after=retry_after, refusal=refusal)
        failure.lacks_path = lacks_path(status, refusal)
        return failure

    @property
    def is_about_settings(self) -> bool:
        """Whether it may be the upstream's address or key that is wrong, or has changed."""
        return self.lacks_path or self.reason in {"status_401", "status_403"}

    def fields(self, secret: str) -> dict[str, Any]:
        """What the operator's log says of it.

        Args:
            secret: What the upstream may have repeated and the log must not; empty for nothing.
        """
        refusal = self.refusal
        request_id = passed_on_headers.get().get("X-Request-ID")
        excerpt = refusal.excerpt.replace(secret, "<key>") if secret else refusal.excerpt
        status = self.reason.removeprefix("status_")
        fields = {
            "reason": self.reason,
            "status": int(status) if status.isdecimal() else None,
            "code": refusal.code,
            "param": refusal.param,
            "said": excerpt or None,
            "request_id": request_id,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Consequence:
    """What follows from one reason.

    Attributes:
        error: What the client gets.
        breaker: What the breaker learns of the upstream.
        again: Whether a request that does no harm twice is sent again. Any request is, if the
            upstream certainly has none of it.
        mendable: What the client gets instead if it wrote the request itself and can mend it.
    """

    error: type[UpstreamError]
    breaker: Verdict
    again: bool = False
    mendable: type[UpstreamError] | None = None


_FAILED, _ANSWERED = Verdict.FAILED, Verdict.ANSWERED
CONSEQUENCES: dict[str, Consequence] = {
    # Our own limits say nothing of the upstream: on connections, length, the time of a stream.
    Reason.POOL_TIMEOUT: Consequence(UpstreamBusy, Verdict.NOTHING),
    Reason.TOO_LONG: Consequence(UpstreamError, Verdict.NOTHING),
    Reason.STREAM_TIMEOUT: Consequence(UpstreamTimeout, Verdict.NOTHING),
    Reason.CONNECT: Consequence(UpstreamError, _FAILED, again=True),
    Reason.CONNECT_TIMEOUT: Consequence(UpstreamTimeout, _FAILED, again=True),
    Reason.WRITE_TIMEOUT: Consequence(UpstreamTimeout, _FAILED, again=True),
    Reason.HUNG_UP: Consequence(UpstreamError, _FAILED, again=True),
    Reason.FIRST_BYTE_TIMEOUT: Consequence(UpstreamTimeout, Verdict.LATE, again=True),
    Reason.DEADLINE: Consequence(UpstreamTimeout, Verdict.LATE),
    Reason.READ_TIMEOUT: Consequence(UpstreamTimeout, _FAILED),
    Reason.PROTOCOL: Consequence(UpstreamError, _FAILED),
    Reason.CUT: Consequence(UpstreamError, _FAILED),
    Reason.ENCODED: Consequence(UpstreamError, _FAILED),
    Reason.NONSENSE: Consequence(UpstreamError, _FAILED),
    Reason.ERROR_EVENT: Consequence(UpstreamError, _FAILED),
    # 401 and 403 are not here: it is this service's key that the upstream does not like.
    "status_400": Consequence(UpstreamError, _ANSWERED, mendable=UpstreamRefused),
    "status_404": Consequence(UpstreamError, _ANSWERED, mendable=UpstreamNotFound),
    "status_413": Consequence(UpstreamError, _ANSWERED, mendable=UpstreamTooLarge),
    "status_415": Consequence(UpstreamError, _ANSWERED, mendable=UpstreamRefused),
    "status_422": Consequence(UpstreamError, _ANSWERED, mendable=UpstreamUnprocessable),
    # Who is busy is not broken. A 503 is both, and counts: whoever gets mostly those had better
    # wait, as long as its Retry-After says.
    **{f"status_{n}": Consequence(UpstreamBusy, _ANSWERED) for n in (429, 529)},
    "status_503": Consequence(UpstreamUnavailable, _FAILED, again=True),
    **{f"status_{n}": Consequence(UpstreamError, _FAILED, again=True) for n in (500, 502, 504)},
    # Cloudflare's, for an origin that it cannot reach.
    **{f"status_{n}": Consequence(UpstreamError, _FAILED) for n in range(520, 528)},
}
_OTHER_STATUS = Consequence(UpstreamError, _ANSWERED)

_TIMEOUTS = {
    httpx.PoolTimeout: Reason.POOL_TIMEOUT,
    httpx.ConnectTimeout: Reason.CONNECT_TIMEOUT,
    httpx.WriteTimeout: Reason.WRITE_TIMEOUT,
    httpx.ReadTimeout: Reason.FIRST_BYTE_TIMEOUT,
}


def as_failure(error: httpx.HTTPError, *, is_unsent: bool = False) -> UpstreamFailure:
    """Names what httpx raised before there was the head of an answer.

    Args:
        error: What was raised.
        is_unsent: Whether not even the request's head could be written.
    """
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        is_unsent = isinstance(error, httpx.ConnectError)
        return UpstreamFailure(Reason.CONNECT, is_unsent=is_unsent)
    if isinstance(error, httpx.TimeoutException):
        reason = _TIMEOUTS.get(type(error), Reason.FIRST_BYTE_TIMEOUT)
        return UpstreamFailure(reason, is_unsent=reason is Reason.CONNECT_TIMEOUT)
    if isinstance(error, httpx.NetworkError) or "disconnected" in str(error):
        return UpstreamFailure(Reason.HUNG_UP, is_unsent=is_unsent)
    return UpstreamFailure(Reason.PROTOCOL)


def _consequence_of(failure: UpstreamFailure) -> Consequence:
    """Its row of the table; a status that has none is an answer that the client cannot use.

    Whoever says why it refuses a request is not broken, whatever the status of the answer.
    """
    row = CONSEQUENCES.get(failure.reason, _OTHER_STATUS)
    return row if failure.refusal.code is None else replace(row, breaker=_ANSWERED, again=False)


def error_from(
    failure: UpstreamFailure, *, by_client: bool, is_embedded: bool = False
) -> UpstreamError:
    """The error that the client gets: its class, its code if that is known, and none of its words.

    Args:
        failure: What went wrong.
        by_client: Whether the client wrote the request, and so can mend what is refused.
        is_embedded: Whether the embedded model said it, whose words are public.
    """
    row, refusal = _consequence_of(failure), failure.refusal
    words = refusal.message if is_embedded else None
    known = KNOWN_CODES.get(refusal.code or "")
    error = row.error()
    if by_client and known is not None and refusal.code is not None:
        error = known.error()
        error.explain(refusal.code, words or known.message, refusal.param)
    elif by_client and failure.lacks_path:
        error = ProtocolNotServed()
    elif by_client and row.mendable is not None:
        error = row.mendable(words, refusal.param)
    if isinstance(error, TryLater) and failure.reason != Reason.POOL_TIMEOUT:
        error.retry_after_s = _asked_pause_s(failure.retry_after) or DEFAULT_RETRY_AFTER_S
    return error


def settle(permit: BreakerPermit, failure: UpstreamFailure) -> None:
    """Tells the breaker, by way of the request's permit, what a failure says of the upstream."""
    wait_s = _asked_pause_s(failure.retry_after) or 0
    permit.settle(_consequence_of(failure).breaker, wait_s)


def may_retry(failure: UpstreamFailure, *, is_idempotent: bool) -> bool:
    """Whether the request may be sent again.

    Args:
        failure: What went wrong; no byte of an answer has been passed on.
        is_idempotent: Whether it does no harm if the upstream gets it twice.
    """
    return failure.is_unsent or (is_idempotent and _consequence_of(failure).again)


def pauses(
    num_retries: int, draw: Callable[[float, float], float] = random.uniform
) -> Iterator[float]:
    """Yields the seconds to wait before each retry, with full jitter.

    Brooker, "Exponential Backoff And Jitter", AWS 2015.

    Args:
        num_retries: How many there may be.
        draw: A number between two.
    """
    for number in range(num_retries):
        yield draw(0.0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**number))


def _asked_pause_s(header: str) -> int | None:
    """Whole seconds of a Retry-After; None for none, and for a date, which hardly anyone sends."""
    try:
        seconds = float(header)
    except ValueError:
        return None
    if not math.isfinite(seconds):
        return None
    return min(max(1, math.ceil(seconds)), MAX_RETRY_AFTER_S)
