"""Is it alive, is it ready, how is it doing."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from codefend.service.runtime import READY, Runtime

__all__ = ["build_probes"]


def build_probes(runtime: Runtime) -> APIRouter:
    """Builds /healthz, /health, /readyz and, unless it has a port of its own, /metrics."""
    router = APIRouter(tags=["probes"])

    @router.get("/health", response_model=dict[str, str], description="The same as /healthz.")
    @router.get(
        "/healthz",
        responses={503: {"description": "A part has failed that nothing replaces."}},
        response_model=dict[str, str],
    )
    async def healthz() -> JSONResponse:
        """Alive: the event loop turns, and what replaces its processes does.

        The model behind the service has no say in this.
        """
        if runtime.failure is not None:
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "ok"})

    @router.get(
        "/readyz",
        responses={503: {"description": "Warming up, draining, or set wrongly for its upstream."}},
        response_model=dict[str, str],
    )
    async def readyz() -> JSONResponse:
        """Ready: models are warm, the service is not draining, and its upstream is set right.

        An upstream that does not answer is its own concern: it is told, and changes no status.
        """
        status, sentence = runtime.readiness()
        told = {} if sentence is None else {"upstream": sentence}
        return JSONResponse({"status": status} | told, 200 if status == READY else 503)

    if runtime.pipeline.settings.metrics_port is None:

        @router.get("/metrics", response_class=Response)
        async def metrics() -> Response:
            """Prometheus metrics."""
            return Response(runtime.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return router
