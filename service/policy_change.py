"""What the file of keys changes of a policy, and its validation; for the API process alone."""

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from codefend.models.purifier.strengths import Strength
from codefend.service.policy import (
    ENDPOINTS,
    Disclosure,
    Mode,
    OnFlagged,
    OnPurifyFailure,
    Policy,
    Quarantined,
)

__all__ = ["PolicyChange", "read_policy_change"]


class PolicyChange(BaseModel):
    """What a policy of the file sets; None leaves the service's setting as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    mode: Mode | None = None
    on_purify_failure: OnPurifyFailure | None = None
    on_flagged: OnFlagged | None = None
    disclose: Disclosure | None = None
    quarantine: Quarantined | None = None
    strength: Strength | None = None
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
