"""What a failure of the upstream means: to the client, and to the breaker. Pure policy."""

from codefend.service.errors import UpstreamBusy, UpstreamError, UpstreamTimeout
from codefend.service.forward.breaker import Passage
from codefend.service.forward.failures import BadStatus, Failure, Reason
from codefend.service.forward.refusals import asked_pause_s, refusal_from_status

__all__ = ["error_from", "tell"]

_TIMEOUTS = frozenset(
    {
        Reason.CONNECT_TIMEOUT,
        Reason.WRITE_TIMEOUT,
        Reason.FIRST_BYTE_TIMEOUT,
        Reason.READ_TIMEOUT,
        Reason.STREAM_TIMEOUT,
    }
)
# The last eight are Cloudflare's, for an origin that it cannot reach. Not 429, nor 529, which says
# the same at some: who is busy is not broken. A 503 is both, and counts: whoever gets mostly those
# had better wait, as long as its Retry-After says.
_BROKEN_STATUSES = frozenset({500, 502, 503, 504, *range(520, 528)})
# Our own limits: on connections, on the length of an answer, on the time of a stream that flows.
_OUR_OWN = frozenset({Reason.POOL_TIMEOUT, Reason.TOO_LONG, Reason.STREAM_TIMEOUT})


def error_from(failure: Failure, *, by_client: bool) -> UpstreamError:
    """The error that the client gets: its class, and none of the upstream's words.

    Args:
        failure: What went wrong.
        by_client: Whether the client wrote the request, and so can mend what is refused.
    """
    if isinstance(failure, BadStatus):
        return refusal_from_status(
            failure.status, failure.retry_after, failure.said, by_client=by_client
        )
    if failure.reason == Reason.POOL_TIMEOUT:
        return UpstreamBusy()
    return UpstreamTimeout() if failure.reason in _TIMEOUTS else UpstreamError()


def tell(passage: Passage, failure: Failure) -> None:
    """Tells the breaker, by way of the request's passage, what a failure says of the upstream."""
    if isinstance(failure, BadStatus):
        if failure.status in _BROKEN_STATUSES:
            passage.fail(asked_pause_s(failure.retry_after) or 0)
        else:
            passage.succeed()
    elif failure.reason in _OUR_OWN:
        passage.leave()
    elif failure.reason == Reason.FIRST_BYTE_TIMEOUT:
        passage.fail_late()
    else:
        passage.fail()
