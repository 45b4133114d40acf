"""Assembles the application: one guard, its endpoints, and the gate in front of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from fastapi import FastAPI, Request
from prometheus_client import start_http_server
from starlette.exceptions import HTTPException

from service.admit.gate import Gate
from service.endpoints.ask import build_ask
from service.endpoints.chat import build_chat
from service.endpoints.models import build_models
from service.endpoints.probes import build_probes
from service.endpoints.purify import build_purify
from service.errors import InvalidBody, MethodNotAllowed, NotFound
from service.guard import Guard
from service.metrics import Metrics
from service.settings import Settings
from service.tracing.tracer import make_tracer

__all__ = ["create_app"]

DESCRIPTION = (
    "Takes adversarial perturbations out of images before a multimodal language model sees them."
)


def create_app(settings: Settings) -> FastAPI:
    """Builds the application; its processes start and end with its lifespan.

    The guard is found at `app.state.guard`.
    """
    metrics = Metrics()
    guard = Guard(settings, metrics)
    tracer = make_tracer(settings.otlp_endpoint)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as ending:  # the last first
            if settings.metrics_port is not None:
                metrics_server, _thread = start_http_server(
                    settings.metrics_port, settings.host, metrics.registry
                )
                ending.callback(metrics_server.server_close)
                ending.callback(metrics_server.shutdown)
            if tracer is not None:
                ending.push_async_callback(asyncio.to_thread, tracer.close)
            ending.push_async_callback(guard.stop)
            await guard.start()
            yield

    app = FastAPI(
        title="CoDefend",
        description=DESCRIPTION,
        version=_version(),
        lifespan=lifespan,
        redoc_url=None,
        # The tracer writes spans of its own stages; the framework's would repeat them, with paths.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.guard = guard
    for build in (build_purify, build_ask, build_chat, build_models, build_probes):
        app.include_router(build(guard))
    app.add_exception_handler(HTTPException, _refuse_path)
    paths = list(app.openapi()["paths"])
    app.add_middleware(
        Gate,
        settings=lambda: guard.settings,
        keys=guard.keys,
        tracer=tracer,
        metrics=metrics,
        house=guard.house,
        check_open=guard.opening.check,
        paths=[*paths, "/docs", "/openapi.json"],
    )
    return app


async def _refuse_path(_: Request, error: Exception) -> NoReturn:
    """Gives the framework's own errors our shape; the gate answers them."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    known = {404: NotFound, 405: MethodNotAllowed}
    raise known.get(status, InvalidBody) from error


def _version() -> str:
    try:
        return version("codefend")
    except PackageNotFoundError:
        return "0"
