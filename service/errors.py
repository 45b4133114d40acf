"""Every error the service answers with; each class owns its status, type, code and public message.

CodefendError
├── RequestRefused (4xx: the caller can mend it)
│   ├── InvalidBody 400            ├── Unauthorized 401
│   ├── MissingField 400           ├── WrongHost 403
│   ├── InvalidField 400           ├── NotFound 404
│   ├── InvalidImage 400           ├── MethodNotAllowed 405
│   ├── AnimatedImage 400          ├── BodyTimeout 408
│   ├── RemoteImage 400            ├── BodyTooLarge 413
│   ├── TooManyImages 400          ├── ImageTooLarge 413, ImageTooSlow 413
│   ├── UnsupportedContent 400     ├── UnsupportedMedia 415
│   ├── UnknownField 400           ├── UnsupportedImage 415
│   ├── ClosedField 400            ├── EndpointForbidden 403
│   ├── UnknownState 400           ├── ImageFlagged 400
│   ├── ImageInText 400
│   ├── MalformedRequest 400       ├── HeadTimeout 408
│   ├── UnexpectedBody 400         ├── TargetTooLong 414
│   ├── AmbiguousKey 400           ├── HeadTooLarge 431
│   ├── UnsupportedEncoding 415
│   └── ClientLeft 499 (nobody reads it; it is only counted)
├── Overloaded 429 (with Retry-After)
│   ├── RateLimited
│   └── KeyBusy
├── InternalError 500, DeadlineExceeded 504
├── PurificationOff 503
│   └── StrengthUnavailable
├── Unavailable 503 (with Retry-After)
│   ├── ShuttingDown
│   ├── NotReady
│   ├── OutOfMemory
│   ├── TooManyConnections
│   └── PurificationFailed
│       └── PoisonousImage
└── UpstreamError 502 (messages are constant: an upstream's own words may quote a prompt or a path)
    ├── UpstreamTimeout 504
    ├── UpstreamRefused 400 (what the model refuses is the caller's to mend)
    ├── UpstreamNotFound 404, ProtocolNotServed 404
    ├── UpstreamTooLarge 413
    ├── UpstreamUnprocessable 422
    ├── UpstreamBusy 429 (with Retry-After)
    ├── UpstreamQuotaExceeded 429
    └── UpstreamUnavailable 503, UpstreamDown 503 (with Retry-After)

All that send Retry-After are a TryLater, too.
A 5xx message is constant: what went wrong inside is logged and never sent.
"""

from typing import Any, ClassVar

__all__ = [
    "AmbiguousKey",
    "AnimatedImage",
    "BodyTimeout",
    "BodyTooLarge",
    "ClientLeft",
    "ClosedField",
    "CodefendError",
    "DeadlineExceeded",
    "EndpointForbidden",
    "HeadTimeout",
    "HeadTooLarge",
    "ImageFlagged",
    "ImageInText",
    "ImageTooLarge",
    "ImageTooSlow",
    "InternalError",
    "InvalidBody",
    "InvalidField",
    "InvalidImage",
    "KeyBusy",
    "MalformedRequest",
    "MethodNotAllowed",
    "MissingField",
    "NotFound",
    "NotReady",
    "OutOfMemory",
    "Overloaded",
    "PoisonousImage",
    "ProtocolNotServed",
    "PurificationFailed",
    "PurificationOff",
    "RateLimited",
    "RemoteImage",
    "RequestRefused",
    "ShuttingDown",
    "StrengthUnavailable",
    "TargetTooLong",
    "TooManyConnections",
    "TooManyImages",
    "TryLater",
    "Unauthorized",
    "Unavailable",
    "UnexpectedBody",
    "UnknownField",
    "UnknownState",
    "UnsupportedContent",
    "UnsupportedEncoding",
    "UnsupportedImage",
    "UnsupportedMedia",
    "UpstreamBusy",
    "UpstreamDown",
    "UpstreamError",
    "UpstreamNotFound",
    "UpstreamQuotaExceeded",
    "UpstreamRefused",
    "UpstreamTimeout",
    "UpstreamTooLarge",
    "UpstreamUnavailable",
    "UpstreamUnprocessable",
    "WrongHost",
]

# When to come back to a service that is not warm yet.
WARM_UP_S = 5.0


class CodefendError(Exception):
    """The root: an error with a status and a message that a stranger may read."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    message: ClassVar[str] = "The service could not answer this request."

    def __init__(self, message: str | None = None, param: str | None = None) -> None:
        """Takes a more exact public message, and the field it is about."""
        super().__init__(message, param)
        self.public_message = message or self.message
        self.param = param

    def body(self) -> dict[str, Any]:
        """The response body, in the shape of OpenAI's errors."""
        return {
            "error": {
                "message": self.public_message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Headers that belong to this error."""
        return {}

    def __str__(self) -> str:
        return self.public_message


class RequestRefused(CodefendError):
    """The request is at fault and the caller can mend it."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    message = "The request was refused."


class InvalidBody(RequestRefused):
    """The body is not what its Content-Type says."""

    code = "invalid_body"
    message = "The body could not be parsed as what its Content-Type says."


class MissingField(RequestRefused):
    """A required field is absent."""

    code = "missing_field"


class InvalidField(RequestRefused):
    """A field has a value that is not allowed."""

    code = "invalid_field"


class InvalidImage(RequestRefused):
    """The image is damaged."""

    code = "invalid_image"
    message = "The image is damaged or truncated and could not be decoded."


class AnimatedImage(RequestRefused):
    """The image has more than one frame."""

    code = "animated_image"
    message = "Images of several frames are refused. Send a single one."


class ImageFlagged(RequestRefused):
    """The image looks attacked, and the service is set to refuse such images."""

    code = "image_flagged"
    message = "The image was refused: it looks adversarially altered."


class RemoteImage(RequestRefused):
    """The image is a URL that points elsewhere."""

    code = "remote_image"
    message = (
        "Remote image URLs are refused. Send the image itself: a data: URL, bare base64, "
        "a multipart file, or a raw image body."
    )


class TooManyImages(RequestRefused):
    """The conversation holds more images than are taken."""

    code = "too_many_images"
    message = "There are too many images in the conversation."


class UnsupportedContent(RequestRefused):
    """A part of a conversation is neither text nor an image that can be purified."""

    code = "unsupported_content"
    message = "Only text and images are taken here."


class UnknownField(RequestRefused):
    """A field that nobody here has heard of: what is in it cannot be judged."""

    code = "unknown_field"
    message = "The request has a field that is not known here."


class ClosedField(RequestRefused):
    """A field that would have the upstream fetch, run or merge what nobody has checked."""

    code = "closed_field"
    message = "The request has a field that is closed."


class UnknownState(RequestRefused):
    """An id that this service gave to nobody, to somebody else, or too long ago."""

    code = "unknown_state"
    message = "The request refers to what this service does not know. Send the conversation itself."


class ImageInText(RequestRefused):
    """A text holds an image, or what the upstream would take for one."""

    code = "image_in_text"
    message = "A text holds an image. Send images as image_url parts."


class UnsupportedMedia(RequestRefused):
    """The body's Content-Type is none that the endpoint takes."""

    status = 415
    code = "unsupported_media_type"
    message = "Send application/json, multipart/form-data, or image/jpeg, image/png, image/webp."


class UnsupportedEncoding(RequestRefused):
    """The body is compressed: what it would swell to is not known."""

    status = 415
    code = "unsupported_encoding"
    message = "Compressed bodies are refused. Send the body as it is, without Content-Encoding."

    def headers(self) -> dict[str, str]:
        """Says which coding is taken, as RFC 9110 asks (section 12.5.3)."""
        return {"Accept-Encoding": "identity"}


class UnsupportedImage(RequestRefused):
    """The image is of a format that is not taken, or not read here."""

    status = 415
    code = "unsupported_image"
    message = "The image is of a format that is not taken."


class Unauthorized(RequestRefused):
    """The API key is missing or wrong."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    message = "Send a valid API key: Authorization: Bearer <key>, or x-api-key: <key>."

    def headers(self) -> dict[str, str]:
        """Names the scheme, as RFC 9110 asks of a 401."""
        return {"WWW-Authenticate": "Bearer"}


class EndpointForbidden(RequestRefused):
    """The key's policy names endpoints, and this is none of them."""

    status = 403
    code = "endpoint_forbidden"
    message = "This API key may not use this endpoint."


class WrongHost(RequestRefused):
    """A keyless service was addressed by a name that is not loopback's."""

    status = 403
    type = "permission_error"
    code = "host_refused"
    message = "Without an API key the service answers only to localhost, 127.0.0.1 and [::1]."


class NotFound(RequestRefused):
    """There is no such path; nothing is ever passed through."""

    status = 404
    code = "not_found"
    message = "There is no such path."


class MethodNotAllowed(RequestRefused):
    """The path exists, but not with this method."""

    status = 405
    code = "method_not_allowed"
    message = "This path does not take this method."


class BodyTimeout(RequestRefused):
    """The body did not arrive in time."""

    status = 408
    code = "body_timeout"
    message = "The body did not arrive in time."


class BodyTooLarge(RequestRefused):
    """The body has more bytes than are taken."""

    status = 413
    code = "body_too_large"
    message = "The body is too large."


class ImageTooLarge(RequestRefused):
    """The image has more pixels, or a longer side, than are taken."""

    status = 413
    code = "image_too_large"
    message = "The image is too large."


class ImageTooSlow(RequestRefused):
    """The image would take more of the purifier's time than one image may."""

    status = 413
    code = "image_too_slow"
    message = "The image would take too long to purify."


class MalformedRequest(RequestRefused):
    """What came is no HTTP/1.1 request, or one that two readers could read in two ways."""

    code = "malformed_request"
    message = "This is no well-formed HTTP/1.1 request."


class HeadTooLarge(RequestRefused):
    """The request's head has too many bytes or fields, or its trailers have."""

    status = 431
    code = "head_too_large"
    message = "The request has too many header fields, or too long ones. Send fewer."


class TargetTooLong(RequestRefused):
    """The request's path and query are too long."""

    status = 414
    code = "target_too_long"
    message = "The path and query are too long. Send fields in the body."


class HeadTimeout(RequestRefused):
    """The request's head did not arrive in time."""

    status = 408
    code = "head_timeout"
    message = "The head of the request did not arrive in time."


class UnexpectedBody(RequestRefused):
    """A request that has no use for a body has one."""

    code = "unexpected_body"
    message = "A GET, HEAD or OPTIONS request has no body here. Send it without one."


class AmbiguousKey(RequestRefused):
    """There is more than one key, or header that could hold it."""

    code = "ambiguous_key"
    message = "Send one key: in one Authorization header, in one x-api-key header, or in both."


class ClientLeft(RequestRefused):
    """The client closed the connection before its answer was ready."""

    status = 499
    code = "client_left"
    message = "The client closed the connection."


class TryLater(CodefendError):
    """Adds Retry-After to the errors that pass by themselves; none is of this class alone."""

    def __init__(self, message: str | None = None, retry_after_s: int = 1) -> None:
        """Takes the whole seconds after which another try is likely to succeed."""
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        """Tells the client when to come back."""
        return {"Retry-After": str(self.retry_after_s)}


class Overloaded(TryLater):
    """As many requests are in flight as the service takes, or it would be late."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"
    message = "The service is at capacity. Retry after the time in Retry-After."


class RateLimited(Overloaded):
    """The key has sent as many requests as it may a minute."""

    code = "rate_limit_exceeded"
    message = "This key has sent its requests of a minute. Retry after the time in Retry-After."


class KeyBusy(Overloaded):
    """The key has as many requests under way as it may."""

    code = "concurrency_limit_exceeded"
    message = "This key has too many requests under way. Retry when some of them are answered."


class InternalError(CodefendError):
    """Anything unforeseen; the log has the rest, under the request's id."""


class Unavailable(TryLater):
    """The service cannot do this now."""

    status = 503
    code = "unavailable"
    message = "The service is not available at the moment."


class ShuttingDown(Unavailable):
    """The service drains: accepted requests are answered, new ones are not taken."""

    code = "shutting_down"
    message = "The service is shutting down."


class NotReady(Unavailable):
    """The service is still warming up: how long that takes is not known then."""

    code = "not_ready"
    message = "The service is not ready yet."


class OutOfMemory(Unavailable):
    """The memory for bodies, pictures and answers is taken by other requests."""

    code = "out_of_memory"
    message = (
        "The service has no memory left for this request. Retry after the time in Retry-After."
    )


class TooManyConnections(Unavailable):
    """So many connections are at work that this one was taken for a probe's alone."""

    code = "too_many_connections"
    message = "The service has as many connections as it can serve. Retry in a moment."


class PurificationFailed(Unavailable):
    """The image could not be purified, and so it was not forwarded."""

    code = "purification_failed"
    message = "The image could not be purified, so it was not forwarded."


class PoisonousImage(PurificationFailed):
    """The purifier failed on this image again and again, and on this one alone."""

    def headers(self) -> dict[str, str]:
        """Tells OpenAI's clients, which send a 503 again by themselves, that this is of no use."""
        return super().headers() | {"X-Should-Retry": "false"}


class PurificationOff(CodefendError):
    """A purified image was asked for, and CODEFEND_MODE is off."""

    status = 503
    code = "purification_off"
    message = "Purification is switched off, so there is no purified image."

    def headers(self) -> dict[str, str]:
        """Tells OpenAI's clients, which send a 503 again by themselves, that this is of no use."""
        return {"X-Should-Retry": "false"}


class StrengthUnavailable(PurificationOff):
    """The policy of a key names a strength that the purifier does not have."""

    code = "strength_unavailable"
    message = "The purifier has no such strength: the operator can set strength = standard."


class DeadlineExceeded(CodefendError):
    """The request took longer than it may."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    message = "The request could not be answered within its deadline."


class UpstreamError(CodefendError):
    """The model behind the service refused, failed, or spoke nonsense."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    message = "The model behind this service did not give an answer."

    def explain(self, code: str, message: str, param: str | None) -> None:
        """Takes a code of the upstream's that clients know, and a sentence of ours about it."""
        self.code, self.public_message, self.param = code, message, param


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


class ProtocolNotServed(UpstreamError):
    """The upstream has nothing at the path of this protocol."""

    status = 404
    type = "invalid_request_error"
    code = "protocol_not_served"
    message = "The model behind this service does not serve this path."


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


class UpstreamQuotaExceeded(UpstreamError):
    """The upstream serves this service no longer until somebody pays."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    message = (
        "The account of this service with the provider of its model is used up. Only its operator "
        "can mend that."
    )

    def headers(self) -> dict[str, str]:
        """Tells OpenAI's clients, which send a 429 again by themselves, that this is of no use."""
        return {"X-Should-Retry": "false"}


class UpstreamUnavailable(TryLater, UpstreamError):
    """The upstream says that it cannot answer now."""

    status = 503
    type = "upstream_error"
    code = "upstream_unavailable"
    message = "The model behind this service is not available at the moment."


class UpstreamDown(TryLater, UpstreamError):
    """The model has failed so often that it is not asked for a while (`forward/breaker.py`)."""

    status = 503
    type = "upstream_error"
    code = "upstream_down"
    message = "The model behind this service is failing. Retry after the time in Retry-After."
