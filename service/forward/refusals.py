"""What an upstream's status means to the client: the class of its error, and none of its words."""

import json
import math
from typing import Any

from codefend.service.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRefused,
    UpstreamTooLarge,
    UpstreamUnavailable,
    UpstreamUnprocessable,
)

__all__ = ["asked_pause_s", "refusal_from_status"]

# 401 and 403 are not here: it is this service's key that the upstream does not like.
_THE_CLIENTS_FAULT: dict[int, type[UpstreamError]] = {
    400: UpstreamRefused,
    404: UpstreamNotFound,
    413: UpstreamTooLarge,
    415: UpstreamRefused,
    422: UpstreamUnprocessable,
}
_PASSING: dict[int, type[UpstreamBusy] | type[UpstreamUnavailable]] = {
    429: UpstreamBusy,
    503: UpstreamUnavailable,
}
DEFAULT_RETRY_AFTER_S = 5
MAX_RETRY_AFTER_S = 600


def refusal_from_status(
    status: int, retry_after: str, said: bytes, *, by_client: bool
) -> UpstreamError:
    """Chooses the error for an answer that is none.

    Args:
        status: Of the answer.
        retry_after: Its header of that name, or nothing.
        said: Its body, if its words are public: the embedded model's are. Another upstream's may
            quote a prompt, an address or a path; for those, nothing.
        by_client: Whether the client wrote the request, and so can mend what is refused.
    """
    passing = _PASSING.get(status)
    if passing is not None:
        return passing(retry_after_s=asked_pause_s(retry_after) or DEFAULT_RETRY_AFTER_S)
    refusal = _THE_CLIENTS_FAULT.get(status) if by_client else None
    if refusal is None:
        return UpstreamError()
    error = _error_object(said)
    return refusal(error.get("message"), error.get("param"))


def asked_pause_s(header: str) -> int | None:
    """Whole seconds of a Retry-After; None for none, and for a date, which hardly anyone sends."""
    try:
        seconds = float(header)
    except ValueError:
        return None
    if not math.isfinite(seconds):
        return None
    return min(max(1, math.ceil(seconds)), MAX_RETRY_AFTER_S)


def _error_object(content: bytes) -> dict[str, Any]:
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
