"""How long each stage of one request took; read by the response, the metrics and the log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.metrics import Metrics, Stage

__all__ = ["Timings"]


class Timings:
    """A stopwatch with seven hands."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._started_s = time.perf_counter()
        self._responding_since_s: float | None = None
        self._seconds: dict[Stage, float] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Measures what happens inside, whether it succeeds or not."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.record(stage, time.perf_counter() - started_s)

    def record(self, stage: Stage, seconds: float) -> None:
        """Adds time to a stage; a stage that is entered twice counts once, with its sum."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def begin_response(self) -> None:
        """Starts the last stage, which ends when the response has been sent."""
        self._responding_since_s = time.perf_counter()

    def publish(self) -> None:
        """Gives the measured stages to the metrics, when the request is over."""
        if self._responding_since_s is not None:
            self.record(Stage.RESPOND, time.perf_counter() - self._responding_since_s)
        for stage, seconds in self._seconds.items():
            self._metrics.stage_duration.labels(stage.value).observe(seconds)

    def total_s(self) -> float:
        """Seconds since the request began."""
        return time.perf_counter() - self._started_s

    def milliseconds(self) -> dict[str, float]:
        """The stages so far, and the total, in milliseconds."""
        stages = {stage.value: self._seconds[stage] for stage in Stage if stage in self._seconds}
        return {
            name: round(1000 * s, 3) for name, s in (stages | {"total": self.total_s()}).items()
        }
