"""Runs the application; SIGHUP reloads weights and prompts, SIGTERM drains.

The end of the terminal that it was started in is told by SIGHUP as well, and drains too.

Draining is: unready at once, done when the last answer is.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from codefend.service.app import create_app
from codefend.service.door.connections import (
    ConnectionRegister,
    DoorLimits,
    fit_connections,
    raise_open_files_limit,
    set_unread_timeout,
)
from codefend.service.door.protocol import make_config
from codefend.service.processes.child import kill_children
from codefend.service.runtime import Runtime
from codefend.service.sandbox.kernel import hide_memory
from codefend.service.settings import Settings

__all__ = ["make_server_config", "serve"]

logger = logging.getLogger(__name__)

FAILURE_EXIT_CODE = 70


def serve(settings: Settings, on_ready: Callable[[float], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains and returns; a second signal does not wait.

    Args:
        settings: As they hold.
        on_ready: Called with the seconds that it took, once everything is warm.
    """
    # Its first environment stays readable in /proc, keys and all, however it is cleaned afterwards.
    hide_memory()
    # Until there is a loop to take it: it would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    app = create_app(settings)
    if on_ready is not None:
        app.state.runtime.on_ready = on_ready
    # What exists by now stays: to look through it again would stop every request for 70 ms.
    gc.collect()
    gc.freeze()
    config = make_server_config(app, settings)
    _DrainingServer(config, settings, app.state.runtime).run()
    if app.state.runtime.failure is not None:
        raise SystemExit(FAILURE_EXIT_CODE)


def make_server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The server's configuration: the door, with its limits, in front of the application."""
    metrics = app.state.runtime.metrics
    connections = ConnectionRegister(
        _door_limits(settings), lambda reason: metrics.door_refusals.labels(reason).inc()
    )
    metrics.connections.set_function(lambda: connections.num_open)
    return make_config(
        app,
        connections,
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
    )


def _door_limits(settings: Settings) -> DoorLimits:
    open_files = raise_open_files_limit()
    wished = DoorLimits(
        max_connections=settings.max_connections,
        head_timeout_s=settings.head_timeout_s,
        unread_timeout_s=settings.unread_timeout_s,
    )
    num_children = settings.decode_workers + settings.encode_workers + len(settings.devices) + 1
    limits = fit_connections(
        wished,
        open_files=open_files,
        num_children=num_children,
        max_requests=settings.max_requests,
    )
    if limits.max_connections < wished.max_connections:
        fields = {"open_files": open_files, "connections": limits.max_connections}
        logger.warning(
            "CODEFEND_MAX_CONNECTIONS is lowered: too few files may be open (ulimit -n)",
            extra={"fields": fields},
        )
    return limits


class _DrainingServer(uvicorn.Server):
    """A server that answers what it accepted before it closes its socket."""

    def __init__(self, config: uvicorn.Config, settings: Settings, runtime: Runtime) -> None:
        super().__init__(config)
        self._settings = settings
        self._runtime = runtime
        # Such a service only looks alive: it drains, and whoever watches it starts another.
        runtime.on_failure = self._on_signal
        self._had_terminal = _has_terminal()
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                set_unread_timeout(listener, self._settings.unread_timeout_s)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The original raises the signal again at the end, and the exit code would not be 0.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_hangup(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._on_signal()
        elif self._draining is None:
            self._runtime.reloader.request()

    def _on_signal(self) -> None:
        if self._draining is not None:
            kill_children()
            self.force_exit = True
            self.should_exit = True
            return
        logger.info("draining")
        self._runtime.limiter.is_draining = True
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await asyncio.sleep(self._settings.drain_delay_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._runtime.in_flight.wait_until_empty()
        self.should_exit = True


def _has_terminal() -> bool:
    """Whether a terminal controls this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
