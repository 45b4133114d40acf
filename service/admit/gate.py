"""The gate: every request passes it, and nothing is read of a body before it has.

An ASGI middleware. It authenticates, reserves a slot, gives the request its id and deadline, and
when the response is sent it gives the slot back, counts, and writes the log line.
"""

import logging
import time
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admit.errors import EndpointForbidden
from service.admit.house import House
from service.admit.keys import KeyRing
from service.admit.memory import MemoryBudget
from service.admit.quota import Quota
from service.admit.visit import Visit
from service.errors import (
    ClientLeft,
    CodefendError,
    DeadlineExceeded,
    InternalError,
    NotReady,
    Overloaded,
    RequestRefused,
    ShuttingDown,
)
from service.forward.errors import UpstreamDown
from service.logs import log_image, log_request
from service.metrics import Metrics
from service.problems import problem_response
from service.settings import Settings
from service.timings import Timings
from service.tracing.context import Trace, current_trace
from service.tracing.tracer import Tracer

__all__ = ["Gate"]

logger = logging.getLogger(__name__)

PROBES = frozenset({"/healthz", "/readyz"})
# What is counted as refused at the door, and not as failed inside.
_REJECTIONS = (RequestRefused, Overloaded, NotReady, ShuttingDown, UpstreamDown)


class Gate:
    """Lets requests in, and sees them out."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Callable[[], Settings],
        keys: KeyRing,
        tracer: Tracer | None,
        metrics: Metrics,
        house: House,
        check_open: Callable[[str], None],
        paths: Collection[str],
    ) -> None:
        """Takes the application behind the gate.

        Args:
            app: The application.
            settings: Deadline, and the policy of keys that have none; asked for each request.
            keys: Who may come in.
            tracer: Takes finished requests; None where traces are off.
            metrics: Where requests are counted.
            house: Where costly requests take a slot, and all answers count until they are sent.
            check_open: Raises NotReady or UpstreamDown where a path cannot be served at present.
            paths: All paths that exist; others are counted together. A POST below /v1/ needs a
                slot.
        """
        self._app = app
        self._settings = settings
        self._keys = keys
        self._tracer = tracer
        self._metrics = metrics
        self._house = house
        self._check_open = check_open
        self._quota = Quota()
        self._paths = frozenset(paths)
        self._costly_paths = frozenset(path for path in paths if path.startswith("/v1/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = self._greet(scope)
        reply = _Reply(send, visit, self._house.memory)
        try:
            self._admit(scope, visit)
            await self._app(scope, receive, reply.send)
        except ClientDisconnect:
            visit.outcome = ClientLeft.code
        except CodefendError as error:
            await self._refuse(error, visit, scope, receive, reply)
        except Exception:  # the application's boundary: the client reads a constant sentence
            logger.exception("unforeseen", extra={"fields": {"request_id": visit.request_id}})
            await self._refuse(InternalError(), visit, scope, receive, reply)
        finally:
            self._see_out(visit, reply)

    def _greet(self, scope: Scope) -> Visit:
        path = scope["path"]
        whole_s = self._settings().deadline_s
        endpoint = path if path in self._paths else "other"
        visit = Visit(endpoint, time.monotonic() + whole_s, whole_s, Timings(self._metrics))
        scope.setdefault("state", {})["visit"] = visit
        if self._tracer is not None:
            visit.trace = Trace.begin(Headers(scope=scope).get("traceparent", ""))
            current_trace.set(visit.trace)
        return visit

    def _admit(self, scope: Scope, visit: Visit) -> None:
        if visit.endpoint in PROBES:
            return
        key = self._keys.find(Headers(scope=scope))
        visit.caller = key.name
        visit.policy = key.change.apply(self._settings().policy)
        if not visit.policy.allows(scope["path"]):
            raise EndpointForbidden
        if scope["method"] == "POST" and visit.endpoint in self._costly_paths:
            self._let_in(visit)

    def _let_in(self, visit: Visit) -> None:
        if not self._house.is_draining:
            self._check_open(visit.endpoint)
        caller, per_minute = visit.caller, visit.policy.max_requests_per_minute
        self._quota.check(caller, per_minute)
        visit.slot = self._house.enter(caller, visit.policy.max_requests)
        self._quota.spend(caller, per_minute)

    async def _refuse(
        self, error: CodefendError, visit: Visit, scope: Scope, receive: Receive, reply: "_Reply"
    ) -> None:
        visit.outcome = error.code
        if isinstance(error, _REJECTIONS):
            self._metrics.rejected.labels(error.code).inc()
        if not reply.has_begun:
            await problem_response(error)(scope, receive, reply.send)

    def _see_out(self, visit: Visit, reply: "_Reply") -> None:
        if visit.passage is not None:
            visit.passage.leave()
        if visit.slot is not None:
            if visit.outcome in {"ok", DeadlineExceeded.code}:
                was_late = visit.outcome == DeadlineExceeded.code
                self._house.learn(visit.caller, visit.timings.total_s(), was_late=was_late)
            visit.slot.leave()
        self._house.memory.give(visit.caller, visit.held_bytes)
        if visit.endpoint in PROBES:
            return
        visit.timings.publish()
        self._metrics.requests.labels(visit.endpoint, visit.outcome).inc()
        if self._tracer is not None and visit.trace is not None:
            self._tracer.record(
                visit.trace,
                visit.timings.whole(visit.endpoint),
                visit.timings.intervals(),
                {
                    "http.route": visit.endpoint,
                    "http.response.status_code": reply.status or 0,
                    "codefend.outcome": visit.outcome,
                    "codefend.request_id": visit.request_id,
                    "codefend.images": len(visit.images),
                },
            )
        common = {
            "request_id": visit.request_id,
            "caller": visit.caller,
            "policy": visit.policy.name,
            "mode": visit.policy.mode,
            "endpoint": visit.endpoint,
            "outcome": visit.outcome,
            "timings_ms": visit.timings.milliseconds(),
        }
        for facts in visit.images:
            log_image(common | facts)
        log_request(common | {"status": reply.status} | visit.facts)


class _Reply:
    """Watches a response on its way out, and marks it with the request's id."""

    def __init__(self, send: Send, visit: Visit, memory: MemoryBudget) -> None:
        self._send = send
        self._visit = visit
        self._memory = memory
        self.status: int | None = None

    @property
    def has_begun(self) -> bool:
        return self.status is not None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = self._visit.request_id
        # It is sent when the client has taken it, or nearly so: until then it takes up memory.
        num_bytes = len(message.get("body", b""))
        self._memory.note(self._visit.caller, num_bytes)
        try:
            await self._send(message)
        finally:
            self._memory.give(self._visit.caller, num_bytes)
