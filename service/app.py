"""Assembles the application: one runtime, its endpoints, and admission in front of them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NoReturn

from fastapi import FastAPI, Request
from prometheus_client import make_asgi_app
from starlette.exceptions import HTTPException

from codefend.service.admit.cors import ListedOriginsMiddleware
from codefend.service.admit.middleware import AdmissionMiddleware, AdmissionParts
from codefend.service.door.connections import ConnectionRegister, DoorLimits, set_unread_timeout
from codefend.service.door.protocol import make_config, serving
from codefend.service.endpoints.conversations import build_conversations, build_models
from codefend.service.endpoints.images import build_ask, build_guardrail, build_purify
from codefend.service.endpoints.pages import PAGE_PATHS, build_docs, build_page
from codefend.service.endpoints.probes import build_probes
from codefend.service.errors import InvalidBody, MethodNotAllowed, NotFound
from codefend.service.metrics import Metrics
from codefend.service.runtime import Runtime
from codefend.service.settings import Settings
from codefend.service.startup import installed_version
from codefend.service.tracing import make_tracer

__all__ = ["create_app"]

# A collector or two ask now and then.
METRICS_CONNECTIONS = 16
DESCRIPTION = (
    "Takes adversarial perturbations out of images before a multimodal language model sees them."
)


def create_app(settings: Settings) -> FastAPI:
    """Builds the application; its processes start and end with its lifespan.

    The runtime is found at `app.state.runtime`.
    """
    metrics = Metrics()
    runtime = Runtime(settings, metrics)
    tracer = make_tracer(settings.otlp_endpoint)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as ending:  # the last first
            if settings.metrics_port is not None:
                await ending.enter_async_context(_serving_metrics(settings, metrics))
            if tracer is not None:
                ending.push_async_callback(asyncio.to_thread, tracer.close)
            ending.push_async_callback(runtime.stop)
            await runtime.start()
            yield

    app = FastAPI(
        title="CoDefend",
        description=DESCRIPTION,
        version=installed_version(),
        lifespan=lifespan,
        docs_url=None,  # the framework's page loads its scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # admission sees to that
        # The tracer writes spans of its own stages; the framework's would repeat them, with paths.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.runtime = runtime
    operations = _add_endpoints(app, runtime, settings)
    parts = AdmissionParts(
        partial(getattr, runtime.pipeline, "settings"),
        runtime.keys,
        runtime.limiter,
        runtime.memory,
        runtime.pipeline.check_ready,
        metrics,
        tracer,
    )
    # A browser that opens an address brings no key; without any, there is a check of its own.
    open_paths = PAGE_PATHS if settings.has_keys else ()
    app.add_middleware(
        AdmissionMiddleware, parts=parts, operations=operations, open_paths=open_paths
    )
    if settings.cors_origins:
        app.add_middleware(ListedOriginsMiddleware, origins=settings.cors_origins)
    return app


def _add_endpoints(app: FastAPI, runtime: Runtime, settings: Settings) -> dict[str, list[str]]:
    """Adds all endpoints, and gives the methods of each path."""
    for build in (build_purify, build_guardrail, build_ask, build_conversations, build_models):
        app.include_router(build(runtime.pipeline))
    app.include_router(build_probes(runtime))
    app.include_router(build_docs())
    app.add_exception_handler(HTTPException, _refuse_path)
    operations = {path: list(methods) for path, methods in app.openapi()["paths"].items()}
    operations |= {"/docs": ["get"], "/openapi.json": ["get"]}
    if settings.shows_page:
        app.include_router(build_page(settings))
        operations |= {path: ["get"] for path in PAGE_PATHS}
    return operations


def _serving_metrics(settings: Settings, metrics: Metrics) -> AbstractAsyncContextManager[None]:
    """The metrics on a port of their own, open to everybody, and behind the same door."""
    listener = socket.create_server((settings.host, settings.metrics_port or 0))
    set_unread_timeout(listener, settings.unread_timeout_s)
    limits = DoorLimits(
        max_connections=METRICS_CONNECTIONS,
        num_probe_connections=0,
        head_timeout_s=settings.head_timeout_s,
        unread_timeout_s=settings.unread_timeout_s,
    )
    connections = ConnectionRegister(
        limits, lambda reason: metrics.door_refusals.labels(reason).inc()
    )
    config = make_config(make_asgi_app(metrics.registry), connections, lifespan="off")
    return serving(config, listener)


async def _refuse_path(_: Request, error: Exception) -> NoReturn:
    """Gives the framework's own errors our shape; admission answers them."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    known = {404: NotFound, 405: MethodNotAllowed}
    raise known.get(status, InvalidBody) from error
