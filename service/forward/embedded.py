"""Starts and supervises the embedded model: `codefend mllm`, a process behind a Unix socket."""

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx

__all__ = ["EmbeddedModel"]

logger = logging.getLogger(__name__)

POLL_S = 0.2
RESTART_PAUSE_S = 2.0
STOP_GRACE_S = 10.0


class EmbeddedModel:
    """One process that speaks the upstream's protocol, restarted whenever it ends."""

    def __init__(self, model: str, on_restart: Callable[[], None]) -> None:
        """Takes what to serve.

        Args:
            model: Directory or hub id.
            on_restart: Called whenever the process is replaced.
        """
        self._model = model
        self._on_restart = on_restart
        # mkdtemp makes the directory 0700: nobody else can even reach the socket.
        self._directory = Path(tempfile.mkdtemp(prefix="codefend-"))
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_warm = False

    @property
    def socket_path(self) -> str:
        """Where it listens."""
        return str(self._directory / "mllm.sock")

    @property
    def pid(self) -> int | None:
        """Process id, while there is a process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Begins to load the model, in the background."""
        self._task = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Ends the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None:
            await self._end(self._process)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _supervise(self) -> None:
        while True:
            self._process = await self._launch()
            try:
                await self._wait_until_warm(self._process)
                await self._process.wait()
            finally:
                self.is_warm = False
            logger.error("the embedded model ended with %s", self._process.returncode)
            self._on_restart()
            await asyncio.sleep(RESTART_PAUSE_S)

    async def _launch(self) -> asyncio.subprocess.Process:
        # It ends when its standard input does, so that it never outlives the service; in a session
        # of its own a terminal's Ctrl-C does not reach it before the service has drained.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service.cli",
            "mllm",
            "--model",
            self._model,
            "--socket",
            self.socket_path,
            "--until-stdin-closes",
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async def _wait_until_warm(self, process: asyncio.subprocess.Process) -> None:
        transport = httpx.AsyncHTTPTransport(uds=self.socket_path)
        async with httpx.AsyncClient(transport=transport) as client:
            while process.returncode is None:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("http://embedded/healthz")).is_success:
                        self.is_warm = True
                        logger.info("the embedded model is warm")
                        return
                await asyncio.sleep(POLL_S)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
