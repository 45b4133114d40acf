"""What the defence does for one caller: the settings, changed by what the file of keys says.

A request carries its policy from its admission on: a file read anew changes none that is inside.
Every process of the service loads this module as it starts, so it needs little.
"""

from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from enum import StrEnum

from codefend.models.purifier.strengths import Strength
from codefend.service.protocols.base import all_protocols

__all__ = [
    "ENDPOINTS",
    "PROBES",
    "Animated",
    "Disclosure",
    "ImageVerdict",
    "Mode",
    "OnFlagged",
    "OnPurifyFailure",
    "Policy",
    "Quarantined",
    "TextImages",
    "UnknownFields",
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


class ImageVerdict(StrEnum):
    """What became of one image, in the words of guardrails."""

    MODIFY = "modify"  # the model gets it purified
    ALLOW = "allow"  # the model gets it as it was sent
    DENY = "deny"  # the model does not get it


class Quarantined(StrEnum):
    """Which images are kept, sealed, for whoever investigates."""

    NONE = "none"
    FLAGGED = "flagged"


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
        quarantine: Which images are kept.
        strength: How strongly images are purified.
        max_requests: Most at once; None for no bound of its own.
        max_requests_per_minute: Most in a minute; None for any number.
        endpoints: Paths that may be asked for; None for all.
    """

    name: str = "service"
    mode: Mode = Mode.ENFORCE
    on_purify_failure: OnPurifyFailure = OnPurifyFailure.REFUSE
    on_flagged: OnFlagged = OnFlagged.PURIFY
    disclose: Disclosure = Disclosure.MINIMAL
    quarantine: Quarantined = Quarantined.NONE
    strength: Strength = Strength.STANDARD
    max_requests: int | None = None
    max_requests_per_minute: int | None = None
    endpoints: frozenset[str] | None = None

    def describe(self) -> str:
        """All of it on one line."""
        fields = {field.name: getattr(self, field.name) for field in dataclass_fields(self)}
        if self.endpoints is not None:
            fields["endpoints"] = ",".join(sorted(self.endpoints))
        return " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
