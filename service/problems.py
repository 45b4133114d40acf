"""Turns an error into the response that reports it."""

from starlette.responses import JSONResponse

from codefend.service.errors import CodefendError

__all__ = ["problem_response"]


def problem_response(error: CodefendError) -> JSONResponse:
    """The response for an error: OpenAI's shape, and the headers that belong to it."""
    return JSONResponse(error.body(), error.status, error.headers())
