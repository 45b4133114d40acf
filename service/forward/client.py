"""Builds the client of the upstream: where it is, how it is reached, and who is told what fails."""

import logging
from collections.abc import Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from codefend.service.forward.breaker import Breaker, BreakerLimits, BreakerState
from codefend.service.forward.upstream import Upstream, UpstreamWatch
from codefend.service.metrics import Metrics
from codefend.service.settings import Settings
from codefend.service.tracing.context import current_trace

__all__ = ["make_upstream"]

logger = logging.getLogger(__name__)

EMBEDDED_URL = "http://embedded/v1"


def make_upstream(
    settings: Settings,
    socket_path: str | None,
    metrics: Metrics,
    is_shared: Callable[[], bool],
) -> Upstream:
    """Builds the upstream.

    Args:
        settings: Its address, key and timeouts, and when it is no longer asked.
        socket_path: The embedded model's socket, when there is no upstream.
        metrics: Where its failures are counted.
        is_shared: Says whether there is more than one caller who could ask.
    """
    watch = UpstreamWatch(
        on_error=lambda reason: metrics.upstream_errors.labels(reason).inc(),
        on_retry=lambda reason: metrics.upstream_retries.labels(reason).inc(),
    )
    breaker = _make_breaker(settings, metrics, is_shared)
    return Upstream(_make_client(settings, socket_path), settings, breaker, watch)


def _make_client(settings: Settings, socket_path: str | None) -> httpx.AsyncClient:
    timeout = httpx.Timeout(
        connect=settings.upstream_connect_timeout_s,
        write=settings.upstream_write_timeout_s,
        pool=settings.upstream_pool_timeout_s,
        # Reading has two phases, and each is timed as a whole where it is waited for.
        read=None,
    )
    limits = httpx.Limits(
        max_connections=settings.upstream_max_connections,
        keepalive_expiry=settings.upstream_keepalive_s,
    )
    hooks = {"request": [_pass_on_trace]}
    if settings.upstream_url is None:
        transport = httpx.AsyncHTTPTransport(uds=socket_path, limits=limits)
        return httpx.AsyncClient(
            base_url=EMBEDDED_URL, transport=transport, timeout=timeout, event_hooks=hooks
        )
    headers = {}
    if settings.upstream_key is not None:
        headers["Authorization"] = f"Bearer {settings.upstream_key.get_secret_value()}"
    return httpx.AsyncClient(
        base_url=settings.upstream_url,
        headers=headers,
        timeout=timeout,
        limits=limits,
        event_hooks=hooks,
        # None is kept: callers share the client, and what one was answered is not for another.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


async def _pass_on_trace(request: httpx.Request) -> None:
    trace = current_trace.get()
    if trace is not None:
        request.headers["traceparent"] = trace.traceparent


def _make_breaker(settings: Settings, metrics: Metrics, is_shared: Callable[[], bool]) -> Breaker:
    # The embedded model has none: it is supervised, and while it is replaced the gate refuses
    # requests as long as it takes. A pause on top of that would only prolong it.
    is_embedded = settings.upstream_url is None
    limits = BreakerLimits(
        num_failures=0 if is_embedded else settings.upstream_breaker_failures,
        window_s=settings.upstream_breaker_window_s,
        pause_s=settings.upstream_breaker_pause_s,
        max_pause_s=settings.upstream_breaker_max_pause_s,
        num_trials=settings.upstream_breaker_trials,
    )

    def on_change(state: BreakerState, pause_s: float) -> None:
        metrics.upstream_breaker_state.set(state)
        fields: dict[str, object] = {"state": state.name.lower()}
        if state is BreakerState.OPEN:
            metrics.upstream_breaker_openings.inc()
            fields["pause_s"] = round(pause_s, 1)
        logger.warning("the upstream's breaker has changed", extra={"fields": fields})

    return Breaker(limits, on_change=on_change, is_shared=is_shared)
