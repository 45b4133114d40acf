"""Servers behind the door's limits: the one configuration that every listening socket here has."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, cast

import uvicorn

from codefend.service.door.connections import Connections
from codefend.service.door.protocol import DoorProtocol

__all__ = ["make_config", "serving", "set_unread_timeout"]


def make_config(app: Any, connections: Connections, **options: Any) -> uvicorn.Config:
    """The configuration of a server behind the door.

    Args:
        app: An ASGI application.
        connections: The register, and the limits, of what it listens on.
        **options: Uvicorn's own, where they do not concern the door.
    """
    protocol = cast("type[asyncio.Protocol]", partial(DoorProtocol, connections=connections))
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        # Its lines would hold the query, and so prompts; the gate writes its own.
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nobody here asks for a client's address
        backlog=connections.limits.backlog,
        timeout_keep_alive=connections.limits.keep_alive_s,
        **options,
    )


@contextlib.asynccontextmanager
async def serving(config: uvicorn.Config, listener: socket.socket) -> AsyncIterator[None]:
    """Serves beside another server, in its event loop, for as long as the context lasts."""
    server = _SideServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _SideServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the main server's


def set_unread_timeout(listener: socket.socket, seconds: float) -> None:
    """Ends connections whose peer takes nothing of what is sent for so long (RFC 5482).

    Connections inherit the wish. Without it what the kernel holds of an answer, and its connection,
    would stay for ever.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
