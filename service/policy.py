"""What the defence does for one caller: the settings, changed by what the file of keys says.

A request carries its policy from its admission on: a file read anew changes none that is inside.
"""

from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from codefend.service.protocols.base import all_protocols

__all__ = [
    "PROBES",
    "Animated",
    "Disclosure",
    "Mode",
    "OnFlagged",
    "OnPurifyFailure",
    "Policy",
    "PolicyChange",
    "TextImages",
    "UnknownFields",
    "read_policy_change",
]

# They need no key, and are answered when nothing else is.
PROBES = frozenset({"/health", "/healthz", "/readyz"})
# What a key may be confined to; the probes are everybody's.
ENDPOINTS = frozenset(
    {
        "/v1/purify",
        "/v1/guardrail",
        "/v1/caption",
        "/v1/vqa",
        "/v1/models",
        "/metrics",
        "/docs",
        "/openapi.json",
        *all_protocols(),
    }
)


class Mode(StrEnum):
    """Whether the purified image is what the model sees."""

    ENFORCE = "enforce"
    SHADOW = "shadow"
    OFF = "off"


class Animated(StrEnum):
    """What becomes of an image with several frames."""

    REFUSE = "refuse"
    FIRST = "first"


class OnPurifyFailure(StrEnum):
    """What becomes of an image that could not be purified."""

    REFUSE = "refuse"
    PASS = "pass"  # noqa: S105 - the word is a policy, not a password


class OnFlagged(StrEnum):
    """What becomes of an image that looks attacked."""

    PURIFY = "purify"
    REFUSE = "refuse"


class Disclosure(StrEnum):
    """How much a response tells about the defence."""

    FULL = "full"
    MINIMAL = "minimal"


class UnknownFields(StrEnum):
    """What becomes of a request's fields that are not known here."""

    REFUSE = "refuse"
    DROP = "drop"


class TextImages(StrEnum):
    """How an upstream reads images out of plain text."""

    MARKDOWN = "markdown"  # ![](https://...), as text-generation-inference does
    HTML = "html"  # <img src="...">, as text-generation-webui does
    PLACEHOLDERS = "placeholders"  # <image>, <|image_pad|>, [IMG] and the like, as processors do


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one request.

    Attributes:
        name: What the audit calls it: `service`, a `[policies.NAME]`, or `own` for a key's own.
        mode: Whether the purified image is what the model sees.
        on_purify_failure: What becomes of an image that could not be purified.
        on_flagged: What becomes of one that looks attacked.
        disclose: How much a response tells.
        max_requests: Most at once; None for no bound of its own.
        max_requests_per_minute: Most in a minute; None for any number.
        endpoints: Paths that may be asked for; None for all.
    """

    name: str = "service"
    mode: Mode = Mode.ENFORCE
    on_purify_failure: OnPurifyFailure = OnPurifyFailure.REFUSE
    on_flagged: OnFlagged = OnFlagged.PURIFY
    disclose: Disclosure = Disclosure.MINIMAL
    max_requests: int | None = None
    max_requests_per_minute: int | None = None
    endpoints: frozenset[str] | None = None

    def describe(self) -> str:
        """All of it on one line."""
        fields = {field.name: getattr(self, field.name) for field in dataclass_fields(self)}
        if self.endpoints is not None:
            fields["endpoints"] = ",".join(sorted(self.endpoints))
        return " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)


class PolicyChange(BaseModel):
    """What a policy of the file sets; None leaves the service's setting as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    mode: Mode | None = None
    on_purify_failure: OnPurifyFailure | None = None
    on_flagged: OnFlagged | None = None
    disclose: Disclosure | None = None
    max_requests: int | None = Field(None, ge=1, strict=True)
    max_requests_per_minute: int | None = Field(None, ge=1, strict=True)
    endpoints: frozenset[str] | None = Field(None, min_length=1)

    @field_validator("mode")
    @classmethod
    def _not_off(cls, mode: Mode | None) -> Mode | None:
        # Off is for a purifier that is itself at fault, and then it is off for everyone. Under
        # shadow a caller's model sees the same pixels, and the record of attacks goes on.
        if mode is Mode.OFF:
            msg = "off is for the whole service (CODEFEND_MODE); a key may have shadow"
            raise ValueError(msg)
        return mode

    @field_validator("endpoints")
    @classmethod
    def _known(cls, endpoints: frozenset[str] | None) -> frozenset[str] | None:
        unknown = (endpoints or frozenset()) - ENDPOINTS
        if unknown:
            msg = f"there is no {', '.join(sorted(unknown))}"
            raise ValueError(msg)
        return endpoints

    def apply(self, policy: Policy) -> Policy:
        """The policy with these changes; where the service is off, it stays off."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        changes = {name: value for name, value in given.items() if value is not None}
        if policy.mode is Mode.OFF:
            changes.pop("mode", None)
        return replace(policy, **changes)


def read_policy_change(entry: dict[str, Any], place: str) -> PolicyChange:
    """Validates a policy as it stands in the file.

    Args:
        entry: Field by name.
        place: Where it stands, for the message.

    Raises:
        ValueError: A field is unknown, or its value is not allowed.
    """
    try:
        return PolicyChange(**entry)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        msg = f"{place}: {first['loc'][0]}: {message}"
        raise ValueError(msg) from error
