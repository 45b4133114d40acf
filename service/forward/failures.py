"""What can go wrong between the service and an upstream: the list that metrics and logs name.

What was said meanwhile is no part of it: an upstream's words may quote a prompt, an address, a key.
"""

from enum import StrEnum

import httpx

__all__ = ["NONSENSE", "BadStatus", "Failure", "Reason", "as_failure"]

# What reading an answer raises where it is not of the shape that it should be.
NONSENSE = (ValueError, RecursionError, LookupError, TypeError, AttributeError)


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


class Failure(Exception):
    """Something on the list happened. Clients never get it: `Upstream` makes an error of it."""

    def __init__(self, reason: Reason, *, is_unsent: bool = False) -> None:
        """Takes the reason, and whether the upstream certainly has no request to answer."""
        super().__init__(reason)
        self.reason: str = reason
        self.is_unsent = is_unsent


class BadStatus(Failure):
    """The upstream answered, but not with a success."""

    def __init__(self, status: int, retry_after: str, said: bytes) -> None:
        """Takes the status, the header of that name, and the body as far as it may be repeated."""
        Exception.__init__(self, status)
        self.reason = f"status_{status}"
        self.is_unsent = False
        self.status = status
        self.retry_after = retry_after
        self.said = said


_TIMEOUTS = {
    httpx.PoolTimeout: Reason.POOL_TIMEOUT,
    httpx.ConnectTimeout: Reason.CONNECT_TIMEOUT,
    httpx.WriteTimeout: Reason.WRITE_TIMEOUT,
    httpx.ReadTimeout: Reason.FIRST_BYTE_TIMEOUT,
}


def as_failure(error: httpx.HTTPError, *, is_unsent: bool = False) -> Failure:
    """Names what httpx raised before there was the head of an answer.

    Args:
        error: What was raised.
        is_unsent: Whether not even the request's head could be written.
    """
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        return Failure(Reason.CONNECT, is_unsent=isinstance(error, httpx.ConnectError))
    if isinstance(error, httpx.TimeoutException):
        reason = _TIMEOUTS.get(type(error), Reason.FIRST_BYTE_TIMEOUT)
        return Failure(reason, is_unsent=reason is Reason.CONNECT_TIMEOUT)
    if isinstance(error, httpx.NetworkError) or "disconnected" in str(error):
        return Failure(Reason.HUNG_UP, is_unsent=is_unsent)
    return Failure(Reason.PROTOCOL)
