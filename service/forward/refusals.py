"""What an upstream says when it refuses a request, told from what is only its own words.

Clients act on a few codes: they shorten a conversation, ask another model, wait. `KNOWN_CODES` is
the list of those that pass, each with a sentence of ours. Nothing else of an answer does: words may
quote a prompt, an address or a key. They go to the operator's log.

Servers name one reason in many ways. Sources: OpenAI's guide to errors and the types of its client;
Azure's `innererror`; Anthropic's `error.type`; vLLM's and SGLang's `BadRequestError`; llama.cpp's
`exceed_context_size_error`; LiteLLM's exceptions, its proxy's types, and the phrases by which it
tells the providers apart.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from codefend.service.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamNotFound,
    UpstreamQuotaExceeded,
    UpstreamRefused,
)
from codefend.service.protocols.base import all_protocols

__all__ = ["KNOWN_CODES", "KnownCode", "Refusal", "lacks_path", "read_refusal"]


@dataclass(frozen=True, slots=True)
class KnownCode:
    """What follows from a code.

    Attributes:
        error: Its class says the status.
        message: What the client reads.
    """

    error: type[UpstreamError]
    message: str


_TOO_LONG = KnownCode(
    UpstreamRefused,
    "The conversation, with the answer that is asked for, is longer than the model behind this "
    "service takes. Send less of it, or ask for a shorter answer.",
)
_POLICY = KnownCode(
    UpstreamRefused,
    "The provider of the model behind this service refused the request for its content.",
)
_IMAGE = KnownCode(
    UpstreamRefused,
    "The model behind this service cannot use an image of the request. Send it in another size.",
)
_IMAGES = KnownCode(
    UpstreamRefused, "The model behind this service takes fewer images in one request. Send fewer."
)
_NAME = KnownCode(
    UpstreamRefused, "The model behind this service does not take this field. Leave it out."
)
_ABSENT = KnownCode(
    UpstreamRefused, "The model behind this service needs a field that the request lacks."
)
_VALUE = KnownCode(
    UpstreamRefused, "The model behind this service does not take this value. Send another."
)
_HIGH = KnownCode(
    UpstreamRefused, "A value is above what the model behind this service takes. Lower it."
)
_LOW = KnownCode(
    UpstreamRefused, "A value is below what the model behind this service takes. Raise it."
)
_LONG = KnownCode(
    UpstreamRefused, "A value is longer than the model behind this service takes. Shorten it."
)
_SHORT = KnownCode(UpstreamRefused, "A value is too short for the model behind this service.")
_BUSY = KnownCode(UpstreamBusy, UpstreamBusy.message)
_QUOTA = KnownCode(UpstreamQuotaExceeded, UpstreamQuotaExceeded.message)
_UNKNOWN_MODEL = KnownCode(UpstreamNotFound, UpstreamNotFound.message)

KNOWN_CODES = {
    "context_length_exceeded": _TOO_LONG,
    "string_above_max_length": _LONG,
    "array_above_max_length": _LONG,
    "string_below_min_length": _SHORT,
    "array_below_min_length": _SHORT,
    "empty_string": _SHORT,
    "empty_array": _SHORT,
    "integer_above_max_value": _HIGH,
    "decimal_above_max_value": _HIGH,
    "integer_below_min_value": _LOW,
    "decimal_below_min_value": _LOW,
    "unknown_parameter": _NAME,
    "unsupported_parameter": _NAME,
    "missing_required_parameter": _ABSENT,
    "unsupported_value": _VALUE,
    "invalid_value": _VALUE,
    "invalid_type": _VALUE,
    "invalid_function_parameters": _VALUE,
    "invalid_json_schema": _VALUE,
    "content_filter": _POLICY,
    "content_policy_violation": _POLICY,
    "image_content_policy_violation": _POLICY,
    "invalid_prompt": _POLICY,
    "bio_policy": _POLICY,
    "misalignment_policy_violation": _POLICY,
    "invalid_image": _IMAGE,
    "invalid_image_format": _IMAGE,
    "invalid_base64_image": _IMAGE,
    "invalid_image_url": _IMAGE,
    "invalid_image_mode": _IMAGE,
    "unsupported_image_media_type": _IMAGE,
    "image_parse_error": _IMAGE,
    "image_too_large": _IMAGE,
    "image_too_small": _IMAGE,
    "image_file_too_large": _IMAGE,
    "empty_image_file": _IMAGE,
    "too_many_images": _IMAGES,
    "model_not_found": _UNKNOWN_MODEL,
    "rate_limit_exceeded": _BUSY,
    "overloaded_error": _BUSY,
    "insufficient_quota": _QUOTA,
}
# Other names for the same; in lower case.
_ALIASES = {
    "exceed_context_size_error": "context_length_exceeded",
    "contextwindowexceedederror": "context_length_exceeded",
    "responsibleaipolicyviolation": "content_filter",
    "contentpolicyviolationerror": "content_policy_violation",
    "rate_limit_error": "rate_limit_exceeded",
    "ratelimiterror": "rate_limit_exceeded",
    "throttling_error": "rate_limit_exceeded",
    "deploymentnotfound": "model_not_found",
    "resource_exhausted": "rate_limit_exceeded",
    "billing_error": "insufficient_quota",
    "billing_not_active": "insufficient_quota",
    "billing_hard_limit_reached": "insufficient_quota",
    "budget_exceeded": "insufficient_quota",
    **{
        f"{whose}_model_access_denied": "model_not_found"
        for whose in ("key", "team", "user", "customer", "org", "project", "agent")
    },
}
# In messages of servers that give no code, lower case; the first that is found holds.
_PHRASES = {
    "content_filter": re.compile("content management policy|responsibleaipolicyviolation"),
    "content_policy_violation": re.compile(
        "contentpolicyviolationerror|content_policy_violation|as a result of our safety system"
    ),
    "insufficient_quota": re.compile(
        "insufficient_quota|credit balance is too low|budget has been exceeded"
    ),
    "context_length_exceeded": re.compile(
        "contextwindowexceedederror|context_length_exceeded|"
        "maximum (?:context|input|model) (?:length|limit)|model's context length|"
        "exceeds? (?:the )?(?:available )?context (?:size|limit|window)|"
        "(?:prompt|input) is too long|input too long|too many (?:input )?tokens|"
        "input tokens exceed|maximum number of tokens allowed|"
        "`inputs` tokens [+] `max_new_tokens`|current length is \\d+ while limit is"
    ),
    "too_many_images": re.compile(r"at most \d+ images?(?:\(s\))? may be provided"),
    "model_not_found": re.compile(
        "invalid model\\b|not a valid model id|no endpoints found for|"
        "model [^ ]{1,200} (?:does not exist|not found|is not found)"
    ),
}
_MOST_SEARCHED = 4096
_LONGEST_EXCERPT = 400
# Pixels, keys and the like: what has so many letters and digits in a row is no word.
_LONG_RUN = re.compile(r"[A-Za-z0-9+/=_-]{40,}")
# `messages[0].content`, `messages.[0].content` and `messages.0.content`
_PLACE = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63})(?:\.?\[\d{1,6}\]|\.\w{1,64})*")
_LONGEST_PLACE = 200


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was read of an answer that is no success.

    Attributes:
        code: Of `KNOWN_CODES`; None for any other.
        param: A place of the request: it begins with a field that a protocol has; None for none.
        message: The upstream's own words; only the embedded model's may be repeated.
        excerpt: Of what it said, for the log: one line, without control characters and long runs.
    """

    code: str | None = None
    param: str | None = None
    message: str | None = None
    excerpt: str = ""


def read_refusal(status: int, content: bytes) -> Refusal:
    """Reads the body of an answer that is no success; never fails.

    Args:
        status: Of the answer. Words alone tell a reason only where the request is at fault.
        content: The body, or its beginning.
    """
    try:
        error = _find_error(json.loads(content))
    except (ValueError, RecursionError):
        error = {}
    said = error.get("message")
    message = said if isinstance(said, str) else None
    code = next((name for name in map(_known, _names_in(error)) if name is not None), None)
    if code is None and message is not None and 400 <= status < 500:
        words = message[:_MOST_SEARCHED].lower()
        code = next((name for name, phrase in _PHRASES.items() if phrase.search(words)), None)
    excerpt = _excerpt_of(message or content[:_MOST_SEARCHED].decode("utf-8", "replace"))
    return Refusal(code, _place_of(error.get("param")), message, excerpt)


def lacks_path(status: int, refusal: Refusal) -> bool:
    """Whether an upstream says that it has nothing at a path, rather than no such model.

    Servers that know no such model name it, or say the word; their frameworks and proxies say "not
    found", if anything.
    """
    if status != 404:
        return status in {405, 501}
    return refusal.code is None and "model" not in (refusal.message or "").lower()


def _find_error(document: Any) -> dict[str, Any]:
    """The error of any of the shapes in use; empty where there is none.

    `{"error": {…}}` of OpenAI and most; within a list of Gemini's; `{"object": "error", …}` of
    older vLLM and of SGLang; `{"error": "…"}` of text-generation-inference; `{"detail": …}`; and in
    a stream of the Responses API, `{"response": {"error": {…}}}`.
    """
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return {}
    if isinstance(document.get("response"), dict):
        document = document["response"]
    error = document.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error, "type": document.get("error_type")}
    if document.get("object") == "error" or isinstance(document.get("message"), str):
        return dict(document)
    detail = document.get("detail")
    if isinstance(detail, dict):
        return _find_error(detail) or {"message": json.dumps(detail)}
    return {}


def _names_in(error: dict[str, Any]) -> Iterator[object]:
    """What may be a code, the most exact first."""
    inner = error.get("innererror")
    yield error.get("code")
    yield error.get("type")
    yield error.get("status")
    if isinstance(inner, dict):
        yield inner.get("code")


def _known(name: object) -> str | None:
    if not isinstance(name, str):
        return None
    lower = name.lower()
    code = _ALIASES.get(lower, lower)
    return code if code in KNOWN_CODES else None


def _place_of(param: object) -> str | None:
    if not isinstance(param, str) or len(param) > _LONGEST_PLACE:
        return None
    found = _PLACE.fullmatch(param)
    return param if found and found[1] in _request_fields() else None


@cache
def _request_fields() -> frozenset[str]:
    return frozenset(name for known in all_protocols().values() for name in known.table.fields)


def _excerpt_of(words: str) -> str:
    shortened = _LONG_RUN.sub(lambda run: f"<{len(run[0])} characters>", words)
    line = " ".join(shortened.split())
    escaped = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)
    return escaped if len(escaped) <= _LONGEST_EXCERPT else f"{escaped[:_LONGEST_EXCERPT]}…"
