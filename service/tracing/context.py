"""What of a trace travels with a request: the W3C traceparent, in and out."""

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Trace", "current_trace"]

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """Where one request stands in its trace; ids in lower-case hex.

    Attributes:
        trace_id: 32 digits, the client's own where it sent one.
        span_id: 16 digits, of this request.
        parent_id: Of the client's span; None where it sent none.
        is_sampled: Whether the request is recorded; a client that sent a trace decides.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    is_sampled: bool

    @classmethod
    def begin(cls, traceparent: str) -> "Trace":
        """Goes on with a client's trace, or begins one where the header is empty or malformed."""
        span_id = secrets.token_hex(8)
        found = _TRACEPARENT.fullmatch(traceparent.strip())
        if found is None or not int(found[1], 16) or not int(found[2], 16):
            return cls(secrets.token_hex(16), span_id, None, is_sampled=True)
        return cls(found[1], span_id, found[2], is_sampled=bool(int(found[3], 16) & _SAMPLED))

    @property
    def traceparent(self) -> str:
        """The header for whoever is asked on behalf of this request."""
        return f"00-{self.trace_id}-{self.span_id}-{self.is_sampled:02x}"


current_trace: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""Of the request that is being answered; None where traces are off."""
