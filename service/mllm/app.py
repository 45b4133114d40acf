"""The embedded model's HTTP interface, and the server that runs it.

It is asked in the protocols of `dialects/`, streaming included, and for its list of models, on a
private Unix socket or on a loopback port.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from codefend.service.door.connections import ConnectionRegister, DoorLimits
from codefend.service.door.protocol import make_config
from codefend.service.errors import CodefendError
from codefend.service.mllm.dialects.base import Dialect, Exchange
from codefend.service.mllm.dialects.chat import ChatDialect
from codefend.service.mllm.dialects.messages import CountTokensDialect, MessagesDialect
from codefend.service.mllm.dialects.responses import ResponsesDialect
from codefend.service.mllm.generation import Generation, Generator, read_conversation

__all__ = ["create_mllm_app", "serve_app"]

SOCKET_MODE = 0o600
DIALECTS: tuple[type[Dialect], ...] = (
    ChatDialect,
    ResponsesDialect,
    MessagesDialect,
    CountTokensDialect,
)


def create_mllm_app(generator: Generator) -> FastAPI:
    """Builds the application around a loaded model."""
    app = FastAPI(title="CoDefend's embedded model", docs_url=None, redoc_url=None)
    # One answer at a time. Waiting here costs nothing; waiting in threads could use them all up,
    # and leave none for the answer that the others wait for.
    turn = asyncio.Lock()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": generator.name, "object": "model", "created": 0, "owned_by": "codefend"}
        return {"object": "list", "data": [model]}

    for make_dialect in DIALECTS:
        _add_path(app, generator, make_dialect(), turn)
    return app


def _add_path(app: FastAPI, generator: Generator, dialect: Dialect, turn: asyncio.Lock) -> None:
    """Adds the path of a protocol; every path waits for the same turn."""

    async def answer(request: Request) -> Response:
        try:
            exchange = dialect.open(await request.body(), generator.name)
            return await _answer(generator, exchange, turn)
        except CodefendError as error:
            request_id = request.headers.get("x-request-id", "")
            return JSONResponse(dialect.protocol.error_body(error, request_id), error.status)

    app.add_api_route(dialect.protocol.path, answer, methods=["POST"], response_model=None)


async def _answer(generator: Generator, exchange: Exchange, turn: asyncio.Lock) -> Response:
    request = exchange.request
    conversation = await run_in_threadpool(
        read_conversation, request.turns, generator.special_tokens
    )
    async with turn:
        generation, pieces = await run_in_threadpool(
            generator.begin, conversation, request.max_tokens, request.temperature
        )
    if request.is_counted_only:
        return JSONResponse(exchange.whole("", generation))
    if request.is_streamed:
        events = _events(exchange, generation, pieces, turn)
        return StreamingResponse(events, media_type="text/event-stream")
    async with turn:
        text = await _join(generation, pieces)
    return JSONResponse(exchange.whole(text, generation))


async def _events(
    exchange: Exchange, generation: Generation, pieces: Iterator[str], turn: asyncio.Lock
) -> AsyncIterator[str]:
    said = []
    try:
        for event in exchange.begin():
            yield event
        async with turn:
            async for piece in iterate_in_threadpool(pieces):
                said.append(piece)
                yield exchange.piece(piece)
        for event in exchange.end("".join(said), generation):
            yield event
    finally:
        generation.is_cancelled = True


async def _join(generation: Generation, pieces: Iterator[str]) -> str:
    try:
        return "".join(await asyncio.to_thread(list, pieces))
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
