"""Prometheus metrics; stages are measured under the very names the code gives them.

Those in `STABLE` are what dashboards and alerts of others may rest on: they keep their names,
labels and meaning. The rest may change with what it measures.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from codefend.service.policy import ImageVerdict

__all__ = ["STABLE", "Metrics", "Stage"]

STABLE: Mapping[str, tuple[str, ...]] = {
    "codefend_requests_total": ("endpoint", "outcome"),
    "codefend_request_duration_seconds": ("endpoint",),
    "codefend_stage_duration_seconds": ("stage",),
    "codefend_images_total": ("verdict",),
    "codefend_suspicion": (),
    "codefend_flagged_total": (),
    "codefend_bypass_total": ("reason",),
    "codefend_rejected_total": ("reason",),
    "codefend_queue_depth": (),
    "codefend_requests_in_flight": (),
    "codefend_upstream_errors_total": ("reason",),
    "codefend_upstream_breaker_state": (),
    "codefend_ready": (),
}
"""Labels of each metric that keeps its name, labels and meaning."""

_STAGE_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
BYPASS_REASONS = ("shadow", "off", "purify_failure")
_BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Stage(StrEnum):
    """The seven stages of a request, in order."""

    ADMIT = "admit"
    DECODE = "decode"
    QUEUE = "queue"
    PURIFY = "purify"
    ENCODE = "encode"
    FORWARD = "forward"
    RESPOND = "respond"


class Metrics:
    """One set of metrics on a registry of its own, so that two services fit in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._describe_requests()
        self._describe_images()
        self._describe_processes()
        self._describe_limits()
        self._describe_upstream()
        self._describe_batches()

    def _describe_requests(self) -> None:
        self.stage_duration = self._histogram(
            "stage_duration_seconds",
            "Time a request spent in each stage.",
            _STAGE_BUCKETS_S,
            "stage",
        )
        for stage in Stage:
            self.stage_duration.labels(stage.value)
        self.request_duration = self._histogram(
            "request_duration_seconds",
            "Time from a request's arrival until its answer was sent.",
            _STAGE_BUCKETS_S,
            "endpoint",
        )
        self.requests = self._counter(
            "requests", "Requests answered, by endpoint and outcome.", "endpoint", "outcome"
        )
        self.rejected = self._counter(
            "rejected", "Requests refused on admission or for what they hold.", "reason"
        )
        self.fields = self._counter(
            "fields", "Fields of chats that passed unrefused, or were taken out.", "verdict"
        )
        self.prompts = self._counter(
            "prompts", "Prompts that a generator was asked for: written, late or unfit.", "outcome"
        )
        self.in_flight = self._gauge("requests_in_flight", "Requests in flight.")
        self.held_bytes = self._gauge(
            "held_bytes", "Bytes that bodies, images and answers of requests in flight hold."
        )
        self.connections = self._gauge("connections", "Open client connections.")
        self.door_refusals = self._counter(
            "door_refusals", "Connections refused, or closed unserved.", "reason"
        )

    def _describe_images(self) -> None:
        self.images = self._counter(
            "images",
            "Images by verdict: modify (purified), allow (passed as sent), deny (refused).",
            "verdict",
        )
        for verdict in ImageVerdict:
            self.images.labels(verdict.value)
        self.bypass = self._counter("bypass", "Images that were forwarded unpurified.", "reason")
        for reason in BYPASS_REASONS:
            self.bypass.labels(reason)
        self.suspicion = self._histogram(
            "suspicion",
            "Suspicion of images: the share of clean images that looked less attacked.",
            (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 1.0),
        )
        self.flagged = self._counter("flagged", "Images with a suspicion above 0.99.")
        self.quarantine = self._counter(
            "quarantine",
            "Copies of flagged images: kept, or why not.",
            "outcome",
        )
        self.quarantine_bytes = self._gauge("quarantine_bytes", "Bytes of all sealed images.")
        self.cached = self._counter("cached", "Images answered from the cache of purified images.")
        self.queue_depth = self._gauge(
            "queue_depth", "Images, and tiles of large ones, in the queue of the purifier."
        )

    def _describe_processes(self) -> None:
        self.ready = self._gauge("ready", "Whether /readyz answers 200: 1, or 0.")
        self.version = Info("codefend_build", "What runs.", registry=self.registry)
        self.worker_restarts = self._counter(
            "worker_restarts", "Processes that ended and were replaced.", "kind"
        )
        self.reloads = self._counter("reloads", "Reloads of weights and prompts.", "outcome")
        self.generation = self._gauge(
            "generation", "Model version that serves: loads of weights, counted from 1."
        )
        self.process_memory = ProcessMemory()
        self.registry.register(self.process_memory)

    def _describe_limits(self) -> None:
        self.requests_limit = self._gauge(
            "requests_limit", "Most requests in flight (CODEFEND_MAX_REQUESTS)."
        )
        self.queue_limit = self._gauge(
            "queue_limit", "Most images and tiles in the queue (CODEFEND_MAX_QUEUE)."
        )
        self.memory_limit_bytes = self._gauge(
            "memory_limit_bytes",
            "Most bytes that requests in flight may hold (CODEFEND_MAX_MEMORY_BYTES).",
        )

    def _describe_upstream(self) -> None:
        self.upstream_errors = self._counter(
            "upstream_errors", "Failures of the upstream model.", "reason"
        )
        self.upstream_retries = self._counter(
            "upstream_retries", "Requests that were sent to the upstream model again.", "reason"
        )
        self.upstream_breaker_state = self._gauge(
            "upstream_breaker_state",
            "The upstream's circuit breaker: 0 closed, 1 half-open, 2 open.",
        )
        self.upstream_breaker_openings = self._counter(
            "upstream_breaker_openings",
            "Times the upstream's circuit breaker opened, failed trials included.",
        )

    def _describe_batches(self) -> None:
        self.batch_size = self._histogram("batch_size", "Images per batch.", _BATCH_BUCKETS)
        self.batch_shapes = self._histogram(
            "batch_distinct_sizes", "Different image sizes per batch.", _BATCH_BUCKETS
        )
        self.padding = self._histogram(
            "batch_padding_ratio",
            "Part of a batch's pixels that is padding.",
            (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
        )
        self.batch_failures = self._counter("batch_failures", "Batches that failed.", "reason")
        self.device_busy = self._counter(
            "device_busy_seconds", "Time that workers spent on batches.", "device", "worker"
        )
        self.device_memory = self._gauge(
            "device_memory_bytes",
            "Memory that a worker held after its last batch: of its GPU, or of the host on a CPU.",
            "device",
            "worker",
        )

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"codefend_{name}_total", documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"codefend_{name}", documentation, labels, registry=self.registry)

    def _histogram(
        self, name: str, documentation: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(
            f"codefend_{name}", documentation, labels, registry=self.registry, buckets=buckets
        )


class ProcessMemory(Collector):
    """How much memory the service's processes have in use, asked at every scrape.

    Attributes:
        read: The kind of each process, and its resident bytes.
    """

    def __init__(self) -> None:
        self.read: Callable[[], Iterable[tuple[str, int]]] = tuple

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One gauge, by kind."""
        family = GaugeMetricFamily(
            "codefend_process_memory_bytes",
            "Resident memory of the service's processes, by kind; shared pages count in each.",
            labels=["kind"],
        )
        sums: Tally[str] = Tally()
        for kind, num_bytes in self.read():
            sums[kind] += num_bytes
        for kind, num_bytes in sorted(sums.items()):
            family.add_metric([kind], num_bytes)
        yield family
