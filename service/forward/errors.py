"""What the model behind the service may answer with instead of an answer.

A part of the tree that is drawn in `service/errors.py`. Every message is constant: an upstream's
own words may quote a prompt, an address or a path.
"""

from codefend.service.errors import CodefendError, TryLater

__all__ = [
    "UpstreamBusy",
    "UpstreamDown",
    "UpstreamError",
    "UpstreamNotFound",
    "UpstreamRefused",
    "UpstreamTimeout",
    "UpstreamTooLarge",
    "UpstreamUnavailable",
    "UpstreamUnprocessable",
]


class UpstreamError(CodefendError):
    """The model behind the service refused, failed, or spoke nonsense."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    message = "The model behind this service did not give an answer."


class UpstreamTimeout(UpstreamError):
    """The model behind the service took too long."""

    status = 504
    code = "upstream_timeout"
    message = "The model behind this service did not answer in time."


class UpstreamRefused(UpstreamError):
    """The model refused the request as it was; what it said about it is not passed on."""

    status = 400
    type = "invalid_request_error"
    code = "upstream_refused"
    message = "The model behind this service refused the request."


class UpstreamNotFound(UpstreamError):
    """The upstream has no such model."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    message = "The model behind this service is not known by that name. See /v1/models."


class UpstreamTooLarge(UpstreamError):
    """The request is longer than the upstream takes."""

    status = 413
    type = "invalid_request_error"
    code = "upstream_too_large"
    message = "The purified request is too large for the model behind this service."


class UpstreamUnprocessable(UpstreamError):
    """The upstream understood the request and cannot process it."""

    status = 422
    type = "invalid_request_error"
    code = "upstream_unprocessable"
    message = "The model behind this service cannot process the request."


class UpstreamBusy(TryLater, UpstreamError):
    """The upstream's own limit on requests is reached."""

    status = 429
    type = "rate_limit_error"
    code = "upstream_busy"
    message = "The model behind this service is at capacity. Retry after the time in Retry-After."


class UpstreamUnavailable(TryLater, UpstreamError):
    """The upstream says that it cannot answer now."""

    status = 503
    type = "upstream_error"
    code = "upstream_unavailable"
    message = "The model behind this service is not available at the moment."


class UpstreamDown(TryLater, UpstreamError):
    """The model has failed so often that it is not asked for a while (`breaker.py`)."""

    status = 503
    type = "upstream_error"
    code = "upstream_down"
    message = "The model behind this service is failing. Retry after the time in Retry-After."
