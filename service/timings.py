"""How long each stage of one request took; read by the response, the metrics and the log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from codefend.service.metrics import Metrics, Stage
from codefend.service.tracing.tracer import Interval

__all__ = ["Timings"]


@dataclass(slots=True)
class _Span:
    started_s: float
    ended_s: float | None = None


class Timings:
    """A stopwatch with seven hands; its clock is `time.monotonic`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._started_s = time.monotonic()
        self._responding_since_s: float | None = None
        self._spans: dict[Stage, list[_Span]] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Measures what happens inside, whether it succeeds or not."""
        span = _Span(time.monotonic())
        self._spans.setdefault(stage, []).append(span)
        try:
            yield
        finally:
            span.ended_s = time.monotonic()

    def record(self, stage: Stage, started_s: float, ended_s: float) -> None:
        """Adds a span to a stage; where the spans of several images overlap, time counts once."""
        self._spans.setdefault(stage, []).append(_Span(started_s, ended_s))

    def record_so_far(self, stage: Stage) -> None:
        """Adds all the time since the request began."""
        self.record(stage, self._started_s, time.monotonic())

    def begin_response(self) -> None:
        """Starts the last stage, which ends when the response has been sent."""
        self._responding_since_s = time.monotonic()

    def publish(self) -> None:
        """Gives the measured stages to the metrics, when the request is over."""
        if self._responding_since_s is not None:
            self.record(Stage.RESPOND, self._responding_since_s, time.monotonic())
        for stage, spans in self._spans.items():
            self._metrics.stage_duration.labels(stage.value).observe(_covered_s(spans))

    def total_s(self) -> float:
        """Seconds since the request began."""
        return time.monotonic() - self._started_s

    def intervals(self) -> list[Interval]:
        """Every span of every stage, by its beginning; one that has not ended lasts until now."""
        now_s = time.monotonic()
        found = [
            Interval(stage.value, span.started_s, now_s if span.ended_s is None else span.ended_s)
            for stage, spans in self._spans.items()
            for span in spans
        ]
        return sorted(found, key=lambda interval: interval.started_s)

    def whole(self, name: str) -> Interval:
        """From the request's beginning until now, under this name."""
        return Interval(name, self._started_s, time.monotonic())

    def milliseconds(self) -> dict[str, float]:
        """The stages so far, and the total, in milliseconds."""
        stages = {
            stage.value: _covered_s(self._spans[stage]) for stage in Stage if stage in self._spans
        }
        return {
            name: round(1000 * s, 3) for name, s in (stages | {"total": self.total_s()}).items()
        }


def _covered_s(spans: list[_Span]) -> float:
    """Seconds that lie in at least one span; one that has not ended lasts until now."""
    covered_s, until_s = 0.0, 0.0
    for span in sorted(spans, key=lambda span: span.started_s):
        ended_s = time.monotonic() if span.ended_s is None else span.ended_s
        covered_s += max(0.0, ended_s - max(span.started_s, until_s))
        until_s = max(until_s, ended_s)
    return covered_s
