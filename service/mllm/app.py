"""The embedded model's HTTP interface, and the server that runs it.

It speaks OpenAI's chat/completions, streaming included, and models, on a private Unix socket or on
a loopback port.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from codefend.service.door.connections import ConnectionRegister, DoorLimits
from codefend.service.door.protocol import make_config
from codefend.service.errors import CodefendError, InvalidField
from codefend.service.mllm.generation import (
    ChatRequest,
    Generation,
    Generator,
    read_conversation,
)

__all__ = ["create_mllm_app", "serve_app"]

SOCKET_MODE = 0o600


def create_mllm_app(generator: Generator) -> FastAPI:
    """Builds the application around a loaded model."""
    app = FastAPI(title="CoDefend's embedded model", docs_url=None, redoc_url=None)
    # One answer at a time. Waiting here costs nothing; waiting in threads could use them all up,
    # and leave none for the answer that the others wait for.
    turn = asyncio.Lock()

    @app.exception_handler(CodefendError)
    async def _refuse(_: Request, error: CodefendError) -> JSONResponse:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    async def _refuse_fields(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        # A union's alternatives are named in the path; the fields are what a client knows.
        param = ".".join(str(name) for name in first["loc"][1:4])
        refusal = InvalidField(f"{param}: {first['msg']}.", param)
        return JSONResponse(refusal.body(), refusal.status)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": generator.name, "object": "model", "created": 0, "owned_by": "codefend"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(request: ChatRequest) -> Response:
        conversation = await run_in_threadpool(read_conversation, request, generator.special_tokens)
        async with turn:
            generation, pieces = await run_in_threadpool(
                generator.begin, conversation, request.num_tokens, request.temperature or 0.0
            )
        envelope = _Envelope(generator.name)
        if request.stream:
            events = _events(envelope, generation, pieces, turn)
            return StreamingResponse(events, media_type="text/event-stream")
        async with turn:
            text = await _join(generation, pieces)
        return JSONResponse(envelope.completion(text, generation))

    return app


class _Envelope:
    """What an answer is wrapped in."""

    def __init__(self, model: str) -> None:
        self._common = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def completion(self, text: str, generation: Generation) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": generation.finish_reason,
        }
        return {
            **self._common,
            "object": "chat.completion",
            "choices": [choice],
            "usage": generation.usage,
        }

    def event(self, delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self._line({"choices": [choice]})

    def last_event(self, generation: Generation) -> str:
        return self._line({"choices": [], "usage": generation.usage})

    def _line(self, fields: dict[str, Any]) -> str:
        chunk = {**self._common, "object": "chat.completion.chunk", **fields}
        return f"data: {json.dumps(chunk)}\n\n"


async def _events(
    envelope: _Envelope, generation: Generation, pieces: Iterator[str], turn: asyncio.Lock
) -> AsyncIterator[str]:
    try:
        yield envelope.event({"role": "assistant", "content": ""})
        async with turn:
            async for piece in iterate_in_threadpool(pieces):
                yield envelope.event({"content": piece})
        yield envelope.event({}, generation.finish_reason)
        yield envelope.last_event(generation)
        yield "data: [DONE]\n\n"
    finally:
        generation.is_cancelled = True


async def _join(generation: Generation, pieces: Iterator[str]) -> str:
    try:
        return "".join(await asyncio.to_thread(list, pieces)).strip()
    finally:
        generation.is_cancelled = True


def serve_app(
    app: FastAPI, socket_path: str | None, port: int, *, until_stdin_closes: bool
) -> None:
    """Serves until a signal comes, or until standard input ends.

    Args:
        app: The application.
        socket_path: Unix socket to create, readable by its owner alone; None for a port.
        port: Loopback port, when there is no socket.
        until_stdin_closes: Also end when the process that holds our standard input has ended.
    """
    # Behind the same door: on a port others than the service can reach it.
    config = make_config(app, ConnectionRegister(DoorLimits()), log_level="warning", lifespan="off")
    listener = _listen(socket_path, port)
    asyncio.run(_serve(uvicorn.Server(config), listener, until_stdin_closes))


def _listen(socket_path: str | None, port: int) -> socket.socket:
    if socket_path is None:
        return socket.create_server(("127.0.0.1", port))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket_path)
    listener = socket.socket(socket.AF_UNIX)
    # The mode must be right from the first moment, not after a chmod.
    mask = os.umask(0o777 & ~SOCKET_MODE)
    try:
        listener.bind(socket_path)
    finally:
        os.umask(mask)
    return listener


async def _serve(server: uvicorn.Server, listener: socket.socket, until_stdin_closes: bool) -> None:
    if until_stdin_closes:
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), _end_at_eof, server)
    await server.serve(sockets=[listener])


def _end_at_eof(server: uvicorn.Server) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        server.should_exit = True
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
