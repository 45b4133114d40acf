"""Admission: every request passes here first, and nothing is read of a body before it has.

An ASGI middleware. It opens a `RequestContext`, authenticates, reserves a slot, and when the
response is sent it gives the slot back, counts, and writes the log lines.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codefend.service.admit.limits import ConcurrencyLimiter, MemoryBudget, TokenBucket
from codefend.service.context import RequestContext, Timings
from codefend.service.conventions import Attributes, guardrail_attributes, request_attributes
from codefend.service.credentials import NO_CHANGE, KeyRing
from codefend.service.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientLeft,
    CodefendError,
    DeadlineExceeded,
    EndpointForbidden,
    InternalError,
    NotReady,
    Overloaded,
    ProtocolNotServed,
    RequestRefused,
    ShuttingDown,
    UnexpectedBody,
    UnsupportedEncoding,
    UpstreamDown,
)
from codefend.service.logs import log_request
from codefend.service.metrics import Metrics
from codefend.service.policy import PROBES, Policy
from codefend.service.protocols.base import all_protocols, openai_error
from codefend.service.settings import Settings
from codefend.service.tracing import (
    Interval,
    RequestSpan,
    Tracer,
    answer_headers,
    choose_request_id,
    passed_on_headers,
    read_trace,
)

__all__ = ["AdmissionMiddleware", "AdmissionParts", "announces_body", "read_body"]

logger = logging.getLogger(__name__)

METRICS = "/metrics"
WITHOUT_BODY = frozenset({"GET", "OPTIONS"})
# A list that was kept says nothing about how many questions the model can take.
UNLEARNED = frozenset({"/v1/models", "/v1/models/{model}"})
METRICS_MESSAGE = (
    "Metrics tell of every caller. Where there are several keys, one may read them whose policy in "
    'CODEFEND_API_KEYS_FILE says endpoints = ["/metrics"].'
)
# What is counted as refused on admission, and not as failed inside.
_REJECTIONS = (RequestRefused, Overloaded, NotReady, ShuttingDown, UpstreamDown, ProtocolNotServed)


@dataclass(frozen=True, slots=True)
class AdmissionParts:
    """What requests are admitted by.

    Attributes:
        settings: Deadline, and the policy of keys that have none; asked for each request.
        keys: Who may come in.
        limiter: Where costly requests take a slot.
        memory: Where all answers count until they are sent.
        check_ready: Raises NotReady or UpstreamDown where a path cannot be served at present.
        metrics: Where requests are counted.
        tracer: Begins the spans of requests; None where traces are off.
    """

    settings: Callable[[], Settings]
    keys: KeyRing
    limiter: ConcurrencyLimiter
    memory: MemoryBudget
    check_ready: Callable[[str], None]
    metrics: Metrics
    tracer: Tracer | None = None


class AdmissionMiddleware:
    """Opens a context for every request, admits it, and finishes it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        parts: AdmissionParts,
        operations: Mapping[str, Collection[str]],
        open_paths: Collection[str] = (),
    ) -> None:
        """Takes the application behind it.

        Args:
            app: The application.
            parts: What requests are admitted by.
            operations: The methods of each path that exists; other paths are counted together.
                Those below /v1/ need a slot.
            open_paths: Paths that need no key, beside the probes.
        """
        self._app = app
        self._parts = parts
        self._bucket = TokenBucket()
        self._settings: Settings | None = None
        self._policy = Policy()
        self._paths = frozenset(operations)
        self._open_paths = PROBES.union(open_paths)
        self._protocols = all_protocols()
        # Paths that end with a name of the caller's: counted together.
        self._templates = {p.partition("{")[0]: p for p in operations if p.endswith("}")}
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
        if scope["method"] == "HEAD":
            # The same answer; the server, which keeps the scope as it was, leaves the body out.
            scope = {**scope, "method": "GET"}
        context = self._open(scope)
        reply = _Reply(send, context, self._parts.memory)
        try:
            self._admit(scope, context)
            await self._app(scope, receive, reply.send)
        except ClientDisconnect:
            context.outcome = ClientLeft.code
        except CodefendError as error:
            await self._refuse(error, context, scope, receive, reply)
            _forget_frames(error)
        except Exception:  # the application's boundary: the client reads a constant sentence
            logger.exception("unforeseen", extra={"fields": {"request_id": context.request_id}})
            await self._refuse(InternalError(), context, scope, receive, reply)
        finally:
            self._finish(context, reply)

    def _open(self, scope: Scope) -> RequestContext:
        path = scope["path"]
        bare = path.removesuffix("/")
        if path not in self._paths and (
            bare in self._paths or self._find_template(bare) != "other"
        ):
            # The same path to most clients; a redirect would name a host of the client's choice.
            path = scope["path"] = bare
        settings = self._parts.settings()
        if settings is not self._settings:
            self._settings, self._policy = settings, settings.policy
        endpoint = path if path in self._paths else self._find_template(path)
        whole_s = settings.deadline_s
        timings = Timings(self._parts.metrics)
        protocol = self._protocols.get(endpoint)
        context = RequestContext(endpoint, time.monotonic() + whole_s, whole_s, timings, protocol)
        scope.setdefault("state", {})["context"] = context
        self._name(context, Headers(scope=scope))
        return context

    def _name(self, context: RequestContext, headers: Headers) -> None:
        """Takes the request's id and trace from the client, and keeps them for the upstream."""
        context.request_id = choose_request_id(headers)
        trace = read_trace(headers)
        if self._parts.tracer is not None:
            started_s = context.timings.started_s
            context.span = self._parts.tracer.begin(context.endpoint, trace, started_s)
            trace = context.span.headers
        if trace:
            context.facts["trace_id"] = trace["traceparent"].split("-")[1]
        passed_on_headers.set({"X-Request-ID": context.request_id} | trace)
        answer_headers.set(context.upstream_headers)

    def _find_template(self, path: str) -> str:
        found = (self._templates[p] for p in self._templates if path.startswith(p) and path != p)
        return next(found, "other")

    def _admit(self, scope: Scope, context: RequestContext) -> None:
        method = scope["method"]
        if method in WITHOUT_BODY and announces_body(scope):
            raise UnexpectedBody
        if context.endpoint in self._open_paths:
            return
        key = self._parts.keys.find(Headers(scope=scope))
        context.caller = key.name
        policy = self._policy if key.change is NO_CHANGE else key.change.apply(self._policy)
        context.policy = policy
        # Whoever may read a list may read what is in it.
        place = context.endpoint.partition("/{")[0]
        if policy.endpoints is not None and place not in policy.endpoints:
            raise EndpointForbidden
        if context.endpoint == METRICS and self._parts.keys.is_shared and not policy.endpoints:
            raise EndpointForbidden(METRICS_MESSAGE)
        if (context.endpoint, method) in self._costly:
            _check_encoding(scope)
            self._take_slot(context, method)

    def _take_slot(self, context: RequestContext, method: str) -> None:
        limiter, caller, policy = self._parts.limiter, context.caller, context.policy
        if method == "POST" and not limiter.is_draining:
            self._parts.check_ready(context.endpoint)
        per_minute = policy.max_requests_per_minute
        if per_minute is not None:
            self._bucket.check(caller, per_minute)
        context.slot = limiter.enter(caller, policy.max_requests)
        if per_minute is not None:
            self._bucket.spend(caller, per_minute)
        if method != "POST":
            context.slot.mark_enqueued()  # it brings no image

    async def _refuse(
        self,
        error: CodefendError,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        reply: "_Reply",
    ) -> None:
        context.outcome = error.code
        if isinstance(error, _REJECTIONS):
            self._parts.metrics.rejected.labels(error.code).inc()
        if reply.status is None:
            write = openai_error if context.protocol is None else context.protocol.error_body
            body = write(error, context.request_id)
            response = JSONResponse(body, error.status, error.headers())
            await response(scope, receive, reply.send)

    def _finish(self, context: RequestContext, reply: "_Reply") -> None:
        for give_back in reversed(context.on_finish):
            give_back()
        if context.slot is not None:
            is_telling = context.endpoint not in UNLEARNED
            if is_telling and context.outcome in {"ok", DeadlineExceeded.code}:
                was_late = context.outcome == DeadlineExceeded.code
                took_s = time.monotonic() - (context.deadline_s - context.whole_s)
                self._parts.limiter.learn(context.caller, took_s, was_late=was_late)
            context.slot.leave()
        if context.endpoint in PROBES:
            return
        timings_ms = context.timings.publish()
        self._count(context)
        if context.span is not None:
            self._end_span(context.span, context, reply)
        common = {
            "request_id": context.request_id,
            "caller": context.caller,
            "policy": context.policy.name,
            "mode": context.policy.mode,
            "endpoint": context.endpoint,
            "outcome": context.outcome,
            "timings_ms": timings_ms,
        }
        log_request(common, context.images, {"status": reply.status} | context.facts)

    def _count(self, context: RequestContext) -> None:
        metrics = self._parts.metrics
        metrics.requests.labels(context.endpoint, context.outcome).inc()
        metrics.request_duration.labels(context.endpoint).observe(context.timings.total_s())
        for _, facts in context.guarded:
            if "verdict" in facts:
                metrics.images.labels(facts["verdict"]).inc()

    def _end_span(self, span: RequestSpan, context: RequestContext, reply: "_Reply") -> None:
        parts: list[tuple[Interval, Attributes]] = [
            (interval, {}) for interval in context.timings.intervals()
        ]
        for interval, facts in context.guarded:
            said = guardrail_attributes(facts, context.policy.name, context.outcome)
            parts.append((interval, said))
        whole = request_attributes(
            context.endpoint,
            reply.status or 0,
            context.outcome,
            context.request_id,
            len(context.images),
        )
        span.end(parts, whole)


async def read_body(
    request: Request, max_bytes: int, timeout_s: float, take: Callable[[int], None]
) -> bytes:
    """Reads a whole body.

    Bytes are counted as they come: a chunked body, or a false Content-Length, gains nothing.

    Args:
        request: Whose body it is.
        max_bytes: Longest body.
        timeout_s: Time for it to arrive.
        take: Takes so many bytes out of the service's memory before they are read, or refuses.

    Raises:
        BodyTooLarge: It is longer than `max_bytes`.
        OutOfMemory: There is no memory for it now.
        BodyTimeout: It did not arrive in time.
        ClientLeft: The client closed the connection.
    """
    announced = request.headers.get("content-length", "")
    # What is announced is taken at once: half a body is of no use.
    num_taken = int(announced) if announced.isdecimal() else 0
    if num_taken > max_bytes:
        raise _too_large(max_bytes)
    take(num_taken)
    chunks: list[bytes] = []
    num_bytes = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise _too_large(max_bytes)
                if num_bytes > num_taken:
                    take(num_bytes - num_taken)
                    num_taken = num_bytes
                chunks.append(chunk)
    except TimeoutError as error:
        raise BodyTimeout from error
    except ClientDisconnect as error:
        raise ClientLeft from error
    return b"".join(chunks)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is over {max_bytes} bytes long.")


def _check_encoding(scope: Scope) -> None:
    """Refuses a body that is not sent as it is: a few bytes of it could swell to gigabytes."""
    fields = Headers(scope=scope).getlist("content-encoding")
    codings = {coding.strip().lower() for field in fields for coding in field.split(",")}
    if not codings <= {"identity", ""}:
        raise UnsupportedEncoding(param="content-encoding")


def announces_body(scope: Scope) -> bool:
    """Whether the head of a request says that a body follows."""
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

    def __init__(self, send: Send, context: RequestContext, memory: MemoryBudget) -> None:
        self._send = send
        self._context = context
        self._memory = memory
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._context.request_id
            for name, value in self._context.upstream_headers.items():
                headers.setdefault(name, value)
        num_bytes = len(message.get("body", b""))
        if not num_bytes:
            await self._send(message)
            return
        # It is sent when the client has taken it, or nearly so: until then it takes up memory.
        self._memory.note(self._context.caller, num_bytes)
        try:
            await self._send(message)
        finally:
            self._memory.give(self._context.caller, num_bytes)
