"""What an upstream's status means to the client: the class of its error, and none of its words."""

import json
import math
from typing import Any

from service.forward.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRefused,
    UpstreamTooLarge,
    UpstreamUnavailable,
    UpstreamUnprocessable,
)

__all__ = ["refusal_from_status"]

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


def refusal_from_status(status: int, retry_after: str, said: bytes) -> UpstreamError:
    """Chooses the error for an answer that is none.

    Args:
        status: Of the answer.
        retry_after: Its header of that name, or nothing.
        said: Its body, if its words are public: the embedded model's are. Another upstream's may
            quote a prompt, an address or a path; for those, nothing.
    """
    passing = _PASSING.get(status)
    if passing is not None:
        return passing(retry_after_s=_retry_after_s(retry_after))
    refusal = _THE_CLIENTS_FAULT.get(status)
    if refusal is None:
        return UpstreamError()
    error = _error_object(said)
    return refusal(error.get("message"), error.get("param"))


def _retry_after_s(header: str) -> int:
    """Whole seconds; a date, which hardly any server sends, becomes the default."""
    try:
        seconds = float(header)
    except ValueError:
        return DEFAULT_RETRY_AFTER_S
    if not math.isfinite(seconds):
        return DEFAULT_RETRY_AFTER_S
    return min(max(1, math.ceil(seconds)), MAX_RETRY_AFTER_S)


def _error_object(content: bytes) -> dict[str, Any]:
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
