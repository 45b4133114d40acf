"""Hands finished requests to a collector as spans, made from the intervals of their stopwatches."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from codefend.service.tracing.context import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import SpanContext

__all__ = ["Interval", "Tracer", "make_tracer"]

_NS = 1_000_000_000
SERVICE_NAME = "codefend"


@dataclass(frozen=True, slots=True)
class Interval:
    """A name and two times, in seconds of `time.monotonic`."""

    name: str
    started_s: float
    ended_s: float


class Tracer(Protocol):
    """Takes finished requests."""

    def record(
        self,
        trace: Trace,
        request: Interval,
        stages: Sequence[Interval],
        attributes: Mapping[str, str | int],
    ) -> None:
        """Records one request.

        Args:
            trace: Where it stands.
            request: The whole of it.
            stages: Its parts; those of several images may overlap.
            attributes: Of the whole.
        """

    def close(self) -> None:
        """Sends what is left; blocks."""


def make_tracer(endpoint: str | None) -> Tracer | None:
    """A tracer that sends to an OTLP collector over HTTP (`.../v1/traces`); None for no endpoint.

    Raises:
        ValueError: OpenTelemetry is not installed.
    """
    if endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        msg = "CODEFEND_OTLP_ENDPOINT is set; traces need: pip install 'codefend[tracing]'"
        raise ValueError(msg) from error
    # In batches, from a thread of its own: a slow collector slows no request down.
    return _SpanTracer(BatchSpanProcessor(OTLPSpanExporter(endpoint)))


class _SpanTracer:
    def __init__(self, processor: "SpanProcessor") -> None:
        from opentelemetry.sdk.resources import Resource

        self._processor = processor
        self._resource = Resource.create({"service.name": SERVICE_NAME})

    def record(
        self,
        trace: Trace,
        request: Interval,
        stages: Sequence[Interval],
        attributes: Mapping[str, str | int],
    ) -> None:
        if not trace.is_sampled:
            return
        own = _context(trace, trace.span_id, is_remote=False)
        parent = _context(trace, trace.parent_id, is_remote=True) if trace.parent_id else None
        # Lengths come from the steady clock; the machine's own may be set while a request runs. One
        # offset for all spans: taken anew, it would let a stage begin before its request.
        epoch_ns = time.time_ns() - time.monotonic_ns()
        self._send(own, parent, request, epoch_ns, attributes)
        for stage in stages:
            context = _context(trace, secrets.token_hex(8), is_remote=False)
            self._send(context, own, stage, epoch_ns, {})

    def close(self) -> None:
        self._processor.shutdown()

    def _send(
        self,
        context: "SpanContext",
        parent: "SpanContext | None",
        interval: Interval,
        epoch_ns: int,
        attributes: Mapping[str, str | int],
    ) -> None:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanKind

        span = ReadableSpan(
            interval.name,
            context,
            parent,
            self._resource,
            attributes,
            kind=SpanKind.SERVER if attributes else SpanKind.INTERNAL,
            start_time=epoch_ns + int(interval.started_s * _NS),
            end_time=epoch_ns + int(interval.ended_s * _NS),
        )
        self._processor.on_end(span)


def _context(trace: Trace, span_id: str, *, is_remote: bool) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote, flags)
