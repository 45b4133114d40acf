"""OpenTelemetry traces: one span a request, and below it one for every stage; off unless set.

OpenTelemetry is imported where traces are on, and nowhere else. Spans are made of the intervals of
a request's stopwatch when it is over.
"""

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from opentelemetry.trace import Tracer as OpenTelemetryTracer

__all__ = ["Interval", "RequestSpan", "Tracer", "current_span", "make_tracer"]

SERVICE_NAME = "codefend"
_NS = 1_000_000_000
# https://www.w3.org/TR/trace-context/#traceparent-header
_VERSION = "00-"


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
    def traceparent(self) -> str:
        """The header for whoever is asked on behalf of this request."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, self._context)
        return carrier["traceparent"]

    def end(self, stages: Sequence[Interval], attributes: Mapping[str, str | int]) -> None:
        """Records the request, which is over, unless its client wants no record.

        Args:
            stages: Its parts; those of several images may overlap.
            attributes: Of the whole.
        """
        for stage in stages if self.span.is_recording() else ():
            began_ns = self._on_clock(stage.started_s)
            child = self._tracer.start_span(stage.name, self._context, start_time=began_ns)
            child.end(self._on_clock(stage.ended_s))
        self.span.set_attributes(attributes)
        self.span.end(self._on_clock(time.monotonic()))

    def _on_clock(self, seconds: float) -> int:
        return self._epoch_ns + int(seconds * _NS)


current_span: ContextVar[RequestSpan | None] = ContextVar("span", default=None)
"""Of the request that is being answered; None where traces are off."""


class Tracer:
    """Begins the spans of requests; what is recorded goes to a collector."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE_NAME)

    def begin(self, name: str, traceparent: str, started_s: float) -> RequestSpan:
        """Goes on with a client's trace, or begins one where the header is empty or malformed.

        Args:
            name: Of the request's span.
            traceparent: The header that the client sent; it decides whether a trace is recorded.
            started_s: When the request began, on `time.monotonic`.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # The one header: tracestate and baggage of strangers are not passed on.
        carrier = {"traceparent": traceparent} if traceparent.startswith(_VERSION) else {}
        parent = TraceContextTextMapPropagator().extract(carrier, Context())
        span = RequestSpan(self._tracer, name, parent, started_s)
        current_span.set(span)
        return span

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
