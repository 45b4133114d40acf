"""GET /v1/models: the upstream's."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from codefend.service.admit.visit import Visit
from codefend.service.endpoints.documentation import upstream_errors
from codefend.service.errors import NotReady
from codefend.service.guard import Guard
from codefend.service.respond.patience import answer_in_time

__all__ = ["build_models"]


def build_models(guard: Guard) -> APIRouter:
    """Builds /v1/models."""
    router = APIRouter(tags=["chat"])

    @router.get("/v1/models", response_model=dict[str, Any], responses=upstream_errors())
    async def models(request: Request) -> Response:
        """The models that the upstream serves, as it says it."""
        if guard.embedded is not None and not guard.embedded.is_warm:
            raise NotReady(retry_after_s=5)
        visit: Visit = request.state.visit
        if visit.slot is not None:
            visit.slot.arrive()
        answer = await answer_in_time(request, guard.list_models(), visit.deadline_s)
        return Response(answer, media_type="application/json")

    return router
