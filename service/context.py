"""One request while it is in flight, and the ledger of all of them.

`AdmissionMiddleware` makes a `RequestContext` of every request. It goes with the request through
all stages: its deadline, its stopwatch, its caller's policy, and what the log may say in the end.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

from starlette.requests import Request

from codefend.service.errors import (
    ClientLeft,
    DeadlineExceeded,
    ImageFlagged,
    PurificationFailed,
)
from codefend.service.metrics import Metrics, Stage
from codefend.service.policy import ImageVerdict, Policy
from codefend.service.protocols.base import Protocol
from codefend.service.tracing import Interval, RequestSpan

__all__ = [
    "RequestContext",
    "RequestsInFlight",
    "Slot",
    "Timings",
    "gather_or_cancel",
    "run_with_deadline",
]

T = TypeVar("T")


@dataclass(slots=True)
class _Span:
    started_s: float
    ended_s: float | None = None


class Timings:
    """A stopwatch with seven hands; its clock is `time.monotonic`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.started_s = time.monotonic()
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
        self.record(stage, self.started_s, time.monotonic())

    def begin_response(self) -> None:
        """Starts the last stage, which ends when the response has been sent."""
        self._responding_since_s = time.monotonic()

    def publish(self) -> dict[str, float]:
        """Gives the measured stages to the metrics when the request is over; returns them in ms."""
        if self._responding_since_s is not None:
            self.record(Stage.RESPOND, self._responding_since_s, time.monotonic())
        for stage, spans in self._spans.items():
            self._metrics.stage_duration.labels(stage.value).observe(_covered_s(spans))
        return self.milliseconds()

    def total_s(self) -> float:
        """Seconds since the request began."""
        return time.monotonic() - self.started_s

    def intervals(self) -> list[Interval]:
        """Every span of every stage, by its beginning; one that has not ended lasts until now."""
        now_s = time.monotonic()
        found = [
            Interval(stage.value, span.started_s, now_s if span.ended_s is None else span.ended_s)
            for stage, spans in self._spans.items()
            for span in spans
        ]
        return sorted(found, key=attrgetter("started_s"))

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
    for span in sorted(spans, key=attrgetter("started_s")):
        ended_s = time.monotonic() if span.ended_s is None else span.ended_s
        covered_s += max(0.0, ended_s - max(span.started_s, until_s))
        until_s = max(until_s, ended_s)
    return covered_s


class Slot:
    """One request's place in the ledger; its image is on the way until it is in the queue."""

    def __init__(self, ledger: "RequestsInFlight", caller: str) -> None:
        self._ledger = ledger
        self._caller = caller
        self._is_arriving = True
        self._is_inside = True

    def mark_enqueued(self) -> None:
        """Says that its image is in the queue, or that none will come."""
        if self._is_arriving:
            self._is_arriving = False
            self._ledger.num_arriving -= 1
            self._ledger.notify()

    def leave(self) -> None:
        """Gives the place back; a second time does nothing."""
        if self._is_inside:
            self._is_inside = False
            self.mark_enqueued()
            self._ledger.remove(self._caller)


class RequestsInFlight:
    """The one ledger of requests in flight; all methods belong to the event loop.

    The limiter reads who is inside, to refuse more. The queue reads how many images are on their
    way, to hold a batch back for them.

    Attributes:
        inside: Requests in flight, by caller.
        num_inside: All of them.
        num_arriving: Those of them whose image is not in the queue yet.
        watchers: Set whenever something changes.
    """

    def __init__(self) -> None:
        self.num_inside = 0
        self.num_arriving = 0
        self.watchers: set[asyncio.Event] = set()
        self.inside: Counter[str] = Counter()

    def add(self, caller: str) -> Slot:
        """Enters a request that was let in."""
        self.inside[caller] += 1
        self.num_inside += 1
        self.num_arriving += 1
        self.notify()
        return Slot(self, caller)

    def remove(self, caller: str) -> None:
        """Takes a request out; see `Slot.leave`."""
        self.inside[caller] -= 1
        self.num_inside -= 1
        self.notify()

    def notify(self) -> None:
        """Wakes those who watch."""
        for watcher in self.watchers:
            watcher.set()

    async def wait_until_empty(self) -> None:
        """Waits until the last request has left."""
        changed = asyncio.Event()
        self.watchers.add(changed)
        try:
            while self.num_inside:
                changed.clear()
                await changed.wait()
        finally:
            self.watchers.discard(changed)


@dataclass(slots=True)
class RequestContext:
    """Made by `AdmissionMiddleware`; endpoints find it in `request.state.context`.

    Attributes:
        endpoint: Path, or `other` for paths that are not ours.
        deadline_s: Monotonic time at which the answer is worthless.
        whole_s: Seconds from its arrival until then.
        timings: Its stopwatch.
        caller: Who sent it, as the key ring names it.
        protocol: What it speaks, where it is a conversation; errors are told in its shape.
        policy: What holds for this caller; a file of keys that changes meanwhile changes nothing.
        slot: Its place among the requests in flight; None for requests that take none.
        held_bytes: Of its body, as they count in the budget of memory.
        on_finish: Called when it is over, the last first.
        outcome: `ok`, or the code of the error.
        facts: What the log says of the request.
        images: What the audit says of each of its images: hash, size, suspicion and the like.
        guarded: When each image was purified and judged, with its entry in `images`.
        upstream_headers: What the upstream's answer had that goes into this one.
        span: Where it stands in its trace; None where traces are off.
        request_id: Given to the client, to the upstream and to the log.
    """

    endpoint: str
    deadline_s: float
    whole_s: float
    timings: Timings
    protocol: Protocol | None = None
    caller: str = ""
    policy: Policy = field(default_factory=Policy)
    slot: Slot | None = None
    held_bytes: int = 0
    on_finish: list[Callable[[], object]] = field(default_factory=list)
    outcome: str = "ok"
    facts: dict[str, Any] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    guarded: list[tuple[Interval, dict[str, Any]]] = field(default_factory=list)
    upstream_headers: dict[str, str] = field(default_factory=dict)
    span: RequestSpan | None = None
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @contextmanager
    def guarding(self, facts: dict[str, Any]) -> Iterator[None]:
        """Measures how one image is purified and judged, and notes the verdict among its facts."""
        started_s = time.monotonic()
        try:
            yield
            facts["verdict"] = ImageVerdict.MODIFY
        except (ImageFlagged, PurificationFailed):
            facts["verdict"] = ImageVerdict.DENY
            raise
        finally:
            self.guarded.append((Interval("run_guardrail", started_s, time.monotonic()), facts))


async def run_with_deadline(request: Request, work: Coroutine[Any, Any, T], deadline_s: float) -> T:
    """Runs `work`, and cancels it when its answer has become worthless.

    Call it when the body has been read: it waits for the client's next message, which is only ever
    its leaving.

    Args:
        request: Whose client may leave.
        work: What to run.
        deadline_s: Monotonic time.

    Raises:
        DeadlineExceeded: It took too long.
        ClientLeft: The client closed the connection.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_leaves(request))
    try:
        async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft
    except TimeoutError as error:
        raise DeadlineExceeded from error
    finally:
        await _cancel(working)
        await _cancel(leaving)


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        # Looked at, so that an error that nobody waits for any more is not reported as forgotten.
        task.exception()


async def gather_or_cancel(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs all of them; when one fails, the others are cancelled, and its error is raised.

    When this returns or raises, none of them runs any more.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
