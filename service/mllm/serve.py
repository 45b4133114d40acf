"""Runs the embedded model's server on a private Unix socket, or on a loopback port."""

import asyncio
import contextlib
import os
import socket
import sys

import uvicorn
from fastapi import FastAPI

from codefend.service.door.connections import ConnectionRegister, DoorLimits
from codefend.service.door.protocol import make_config

__all__ = ["serve_app"]

SOCKET_MODE = 0o600


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
