"""Runs the real application on a real port, in a thread of the test's process."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import uvicorn

from codefend.service.app import create_app
from codefend.service.server import make_server_config
from codefend.service.settings import Settings
from tests.service.fake_engine import IMPORT_PATH

READY_TIMEOUT_S = 180
SETTLING_TIMEOUT_S = 0.3


def wait_until(condition, timeout_s=READY_TIMEOUT_S):
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s, "waited in vain"
        time.sleep(0.02)


def status_of_readiness(client):
    try:
        return client.get("/readyz").status_code
    except httpx.TransportError:
        return None


def wait_until_ready(client, process, timeout_s=READY_TIMEOUT_S):
    """Waits for a service in a process of its own."""

    def is_ready():
        assert process.poll() is None
        return status_of_readiness(client) == 200

    wait_until(is_ready, timeout_s)


class RunningService:
    def __init__(self, app, url, client):
        self.runtime = app.state.runtime
        self._start_runtime, self.runtime.start = self.runtime.start, self._start
        self.url = url
        self.client = client

    @property
    def address(self):
        """Host and port, for tests that speak HTTP by hand."""
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    async def _start(self):
        self._loop = asyncio.get_running_loop()
        await self._start_runtime()

    def reload(self):
        """What the signal does."""
        self._loop.call_soon_threadsafe(self.runtime.reloader.request)

    @contextmanager
    def changed(self, **changes):
        """Other settings for a while; for those that are read anew for every request."""
        before = self.runtime.pipeline.settings
        self.runtime.pipeline.settings = before.model_copy(update=changes)
        try:
            yield
        finally:
            self.runtime.pipeline.settings = before

    def settle(self):
        """Waits until what was answered is counted and logged, which comes after the last byte.

        Some tests hold requests inside: it does not wait long.
        """
        asyncio.run_coroutine_threadsafe(self._settle(), self._loop).result()

    async def _settle(self):
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLING_TIMEOUT_S):
                await self.runtime.in_flight.wait_until_empty()

    def metric(self, name, **labels):
        self.settle()
        return self.runtime.metrics.registry.get_sample_value(name, labels) or 0.0

    wait_until = staticmethod(wait_until)


def make_settings(upstream_url="http://127.0.0.1:9/v1", *, engine_options=None, **changes):
    """Settings for tests: a fake engine, few processes, nothing from the environment."""
    values = {
        "engine": IMPORT_PATH,
        "purifier": json.dumps(engine_options or {}),
        "devices": "cpu",
        "decode_workers": 1,
        "encode_workers": 1,
        "upstream_url": upstream_url,
        "cache_bytes": 0,  # most tests send one picture many times, and mean it
        "models_lifetime_s": 0,
        "upstream_breaker_failures": 0,  # and break the upstream again and again
    }
    return Settings(**(values | changes))


@contextmanager
def run_service(settings, *, wait=True, port=0):
    app = create_app(settings)
    listener = socket.create_server(("127.0.0.1", port))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = make_server_config(app, settings)
    config.timeout_graceful_shutdown = 2
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            service = RunningService(app, url, client)
            thread.start()
            service.wait_until(lambda: server.started or not thread.is_alive())
            if wait:
                service.wait_until(lambda: app.state.runtime.pipeline.is_warm)
            yield service
    finally:
        server.should_exit = True
        if thread.ident is not None:
            thread.join()
