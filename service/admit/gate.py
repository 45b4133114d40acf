"""The gate: every request passes it, and nothing is read of a body before it has.

An ASGI middleware. It authenticates, reserves a slot, gives the request its id and deadline, and
when the response is sent it gives the slot back, counts, and writes the log line.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codefend.service.admit.house import House
from codefend.service.admit.keys import KeyRing
from codefend.service.admit.memory import MemoryBudget
from codefend.service.admit.quota import Quota
from codefend.service.admit.visit import Visit
from codefend.service.errors import (
    ClientLeft,
    CodefendError,
    DeadlineExceeded,
    EndpointForbidden,
    InternalError,
    NotReady,
    Overloaded,
    RequestRefused,
    ShuttingDown,
    UnexpectedBody,
    UpstreamDown,
)
from codefend.service.logs import log_image, log_request
from codefend.service.metrics import Metrics
from codefend.service.problems import problem_response
from codefend.service.settings import Settings
from codefend.service.timings import Timings
from codefend.service.tracing.context import Trace, current_trace
from codefend.service.tracing.tracer import Tracer

__all__ = ["Gate"]

logger = logging.getLogger(__name__)

PROBES = frozenset({"/healthz", "/readyz"})
METRICS = "/metrics"
WITHOUT_BODY = frozenset({"GET", "HEAD"})
# A list that was kept says nothing about how many questions the model can take.
UNLEARNED = frozenset({"/v1/models"})
METRICS_MESSAGE = (
    "Metrics tell of every caller. Where there are several keys, one may read them whose policy in "
    'CODEFEND_API_KEYS_FILE says endpoints = ["/metrics"].'
)
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
        operations: Mapping[str, Collection[str]],
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
            operations: The methods of each path that exists; other paths are counted together.
                Those below /v1/ need a slot.
        """
        self._app = app
        self._settings = settings
        self._keys = keys
        self._tracer = tracer
        self._metrics = metrics
        self._house = house
        self._check_open = check_open
        self._quota = Quota()
        self._paths = frozenset(operations)
        self._costly = frozenset(
            (path, method.upper())
            for path, methods in operations.items()
            for method in methods
            if path.startswith("/v1/")
        )

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
            _forget_frames(error)
        except Exception:  # the application's boundary: the client reads a constant sentence
            logger.exception("unforeseen", extra={"fields": {"request_id": visit.request_id}})
            await self._refuse(InternalError(), visit, scope, receive, reply)
        finally:
            self._see_out(visit, reply)

    def _greet(self, scope: Scope) -> Visit:
        path = scope["path"]
        if path not in self._paths and path.endswith("/") and path[:-1] in self._paths:
            # The same path to most clients; a redirect would name a host of the client's choice.
            path = scope["path"] = path[:-1]
        whole_s = self._settings().deadline_s
        endpoint = path if path in self._paths else "other"
        visit = Visit(endpoint, time.monotonic() + whole_s, whole_s, Timings(self._metrics))
        scope.setdefault("state", {})["visit"] = visit
        if self._tracer is not None:
            visit.trace = Trace.begin(Headers(scope=scope).get("traceparent", ""))
            current_trace.set(visit.trace)
        return visit

    def _admit(self, scope: Scope, visit: Visit) -> None:
        method = scope["method"]
        if method in WITHOUT_BODY and _announces_body(scope):
            raise UnexpectedBody
        if visit.endpoint in PROBES:
            return
        key = self._keys.find(Headers(scope=scope))
        visit.caller = key.name
        visit.policy = key.change.apply(self._settings().policy)
        if not visit.policy.allows(scope["path"]):
            raise EndpointForbidden
        if visit.endpoint == METRICS and self._keys.num_callers > 1 and not visit.policy.endpoints:
            raise EndpointForbidden(METRICS_MESSAGE)
        if (visit.endpoint, method) in self._costly:
            self._let_in(visit, method)

    def _let_in(self, visit: Visit, method: str) -> None:
        if method == "POST" and not self._house.is_draining:
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
            is_telling = visit.endpoint not in UNLEARNED
            if is_telling and visit.outcome in {"ok", DeadlineExceeded.code}:
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


def _announces_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


def _forget_frames(error: BaseException) -> None:
    """Frees what the functions held that an error went through, its body of megabytes among it.

    An error that a function keeps in a variable and raises refers to that function's frame, and the
    frame to the error: without this both stay until the garbage collector's rarest run.
    """
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__


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
