"""What a request is called, and where it stands in a trace that others have begun.

The id and the trace of a client are kept, where they are well-formed, and go on to the upstream.

OpenTelemetry adds one span a request, and below it one for every stage and for every image that
was purified and judged (`run_guardrail`); what they say is named in `conventions.py`. Off unless
set, it is imported where traces are on, and nowhere else. Spans are made of the intervals of a
request's stopwatch when it is over.
"""

import re
import time
import uuid
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from opentelemetry.trace import Tracer as OpenTelemetryTracer
    from starlette.datastructures import Headers

__all__ = [
    "Interval",
    "RequestSpan",
    "Tracer",
    "answer_headers",
    "choose_request_id",
    "make_tracer",
    "passed_on_headers",
    "read_trace",
]

SERVICE_NAME = "codefend"
Value = str | int | float | bool
_NS = 1_000_000_000
# What stands in logs, headers and URLs alike.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=+/@~-]{0,127}")
# https://www.w3.org/TR/trace-context/: sections 3.2 and 3.3, as of version 00
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE_KEY = r"[a-z0-9][a-z0-9_*/-]{0,240}(?:@[a-z][a-z0-9_*/-]{0,13})?"
_TRACESTATE_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_TRACESTATE_MEMBER = re.compile(f"({_TRACESTATE_KEY})={_TRACESTATE_VALUE}")
MOST_TRACESTATE_MEMBERS = 32
MOST_TRACESTATE_CHARACTERS = 512

passed_on_headers: ContextVar[Mapping[str, str]] = ContextVar(
    "passed_on_headers", default=MappingProxyType({})
)
"""What tells the upstream which request it is asked for: id and trace."""

answer_headers: ContextVar[dict[str, str] | None] = ContextVar("answer_headers", default=None)
"""What of the upstream's answer goes to the client of the present request, beside its body."""


def choose_request_id(headers: "Headers") -> str:
    """The client's own `X-Request-ID`, where there is one that is well-formed; else a new one."""
    given = headers.getlist("x-request-id")
    is_sound = len(given) == 1 and _REQUEST_ID.fullmatch(given[0])
    return given[0] if is_sound else uuid.uuid4().hex


def read_trace(headers: "Headers") -> dict[str, str]:
    """The client's `traceparent` and `tracestate`, by name, as far as they are well-formed.

    A state without a parent means nothing, and one that is malformed is left out as a whole.
    """
    parents = [value.strip() for value in headers.getlist("traceparent")]
    if len(parents) != 1 or not _TRACEPARENT.fullmatch(parents[0]):
        return {}
    trace = {"traceparent": parents[0]}
    state = ",".join(value.strip() for value in headers.getlist("tracestate"))
    if state and _is_tracestate(state):
        trace["tracestate"] = state
    return trace


def _is_tracestate(state: str) -> bool:
    if len(state) > MOST_TRACESTATE_CHARACTERS:
        return False
    members = [member.strip(" \t") for member in state.split(",")]
    found = [_TRACESTATE_MEMBER.fullmatch(member) for member in members if member]
    keys = [member[1] for member in found if member is not None]
    is_sound = len(keys) == len(found) and len(set(keys)) == len(keys)
    return is_sound and 0 < len(keys) <= MOST_TRACESTATE_MEMBERS


@dataclass(frozen=True, slots=True)
class Interval:
    """A name and two times, in seconds of `time.monotonic`."""

    name: str
    started_s: float
    ended_s: float


class RequestSpan:
    """Where one request stands in its trace."""

    def __init__(
        self, tracer: "OpenTelemetryTracer", name: str, parent: "Context", started_s: float
    ) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._tracer = tracer
        # Lengths come from the steady clock; the machine's own may be set while a request runs. One
        # offset for all spans: taken anew, it would let a stage begin before its request.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        began_ns = self._on_clock(started_s)
        self.span: Span = self._tracer.start_span(
            name, parent, kind=SpanKind.SERVER, start_time=began_ns
        )
        self._context = set_span_in_context(self.span, parent)

    @property
    def headers(self) -> dict[str, str]:
        """The trace for whoever is asked on behalf of this request."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, self._context)
        return carrier

    def end(
        self,
        parts: Iterable[tuple[Interval, Mapping[str, Value]]],
        attributes: Mapping[str, Value],
    ) -> None:
        """Records the request, which is over, unless its client wants no record.

        Args:
            parts: Its stages and images, with what each says; they may overlap.
            attributes: Of the whole.
        """
        for part, said in parts if self.span.is_recording() else ():
            began_ns = self._on_clock(part.started_s)
            child = self._tracer.start_span(
                part.name, self._context, start_time=began_ns, attributes=said
            )
            child.end(self._on_clock(part.ended_s))
        self.span.set_attributes(attributes)
        self.span.end(self._on_clock(time.monotonic()))

    def _on_clock(self, seconds: float) -> int:
        return self._epoch_ns + int(seconds * _NS)


class Tracer:
    """Begins the spans of requests; what is recorded goes to a collector."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE_NAME)

    def begin(self, name: str, trace: Mapping[str, str], started_s: float) -> RequestSpan:
        """Goes on with a client's trace, or begins one where there is none.

        Args:
            name: Of the request's span.
            trace: As `read_trace` found it; the client decides whether it is recorded.
            started_s: When the request began, on `time.monotonic`.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(trace, Context())
        return RequestSpan(self._tracer, name, parent, started_s)

    def close(self) -> None:
        """Sends what is left; blocks."""
        self._provider.shutdown()


def make_tracer(endpoint: str | None) -> Tracer | None:
    """A tracer that sends to an OTLP collector over HTTP (`.../v1/traces`); None for no endpoint.

    Raises:
        ValueError: OpenTelemetry is not installed.
    """
    if endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
    except ImportError as error:
        msg = "CODEFEND_OTLP_ENDPOINT is set; traces need: pip install 'codefend[tracing]'"
        raise ValueError(msg) from error
    provider = TracerProvider(
        ParentBased(ALWAYS_ON),
        Resource.create({"service.name": SERVICE_NAME}),
        shutdown_on_exit=False,
    )
    # In batches, from a thread of its own: a slow collector slows no request down.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return Tracer(provider)
