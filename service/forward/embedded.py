"""Starts and supervises the embedded model: `codefend mllm`, a process behind a Unix socket."""

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx

from codefend.service.cores import share_threads, usable_cores
from codefend.service.processes.heartbeat import BEAT_S, StallDetector, read_vitals
from codefend.service.processes.supervision import Backoff, Supervision
from codefend.service.settings import PREFIX

__all__ = ["EmbeddedModel"]

logger = logging.getLogger(__name__)

STOP_GRACE_S = 10.0
LOG_LEVEL = PREFIX + "LOG_LEVEL"
# Its server turns beside the model and answers within milliseconds, however busy both are.
HEALTH_TIMEOUT_S = 3.0
MOST_MISSED_CHECKS = 2
BEATS_PER_CHECK = 4


class EmbeddedModel:
    """One process that speaks the upstream's protocol, replaced when it ends or does nothing."""

    def __init__(self, model: str, start_timeout_s: float, on_restart: Callable[[], None]) -> None:
        """Takes what to serve.

        Args:
            model: Directory or hub id.
            start_timeout_s: Time for the model to load and warm up.
            on_restart: Called whenever the process is replaced.
        """
        self._model = model
        self._start_timeout_s = start_timeout_s
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

    def start(self, supervision: Supervision) -> None:
        """Begins to load the model, in the background.

        Args:
            supervision: Is told if its supervisor fails.
        """
        self._task = supervision.start("supervisor of the embedded model", self._supervise())

    async def stop(self) -> None:
        """Ends the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None:
            await self._end(self._process)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _supervise(self) -> None:
        backoff = Backoff()
        while True:
            was_warm = False
            try:
                self._process = await self._launch()
                was_warm = await self._wait_until_warm(self._process)
                if was_warm:
                    backoff.reset()
                    await self._watch(self._process)
                await self._kill(self._process)
                error: Exception = RuntimeError(f"it ended with {self._process.returncode}")
            except Exception as failure:  # whatever it was, the next try may succeed
                error = failure
            finally:
                self.is_warm = False
            logger.error("the embedded model is replaced: %s", error)
            self._on_restart()
            if not was_warm:
                await asyncio.sleep(backoff.pause_s(error))

    async def _launch(self) -> asyncio.subprocess.Process:
        # It ends when its standard input does, so that it never outlives the service; in a session
        # of its own a terminal's Ctrl-C does not reach it before the service has drained.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "codefend.service.cli",
            "mllm",
            "--model",
            self._model,
            "--socket",
            self.socket_path,
            "--threads",
            str(share_threads(usable_cores()).embedded),
            "--until-stdin-closes",
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=_environment(),
        )

    async def _wait_until_warm(self, process: asyncio.subprocess.Process) -> bool:
        """Whether it became warm; if not, it has ended, is stopped, or took too long."""
        stalls = StallDetector()
        ends_s = asyncio.get_running_loop().time() + self._start_timeout_s
        async with self._client() as client:
            while process.returncode is None:
                if await _is_healthy(client):
                    self.is_warm = True
                    logger.info("the embedded model is warm")
                    return True
                is_late = asyncio.get_running_loop().time() > ends_s
                if is_late or stalls.is_stalled(read_vitals(process.pid), is_due=False):
                    return False
                await asyncio.sleep(BEAT_S)
        return False

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Returns when it has ended, is stopped, or answers nothing any more."""
        stalls = StallDetector()
        num_missed = 0
        async with self._client() as client:
            for beat in itertools.count():
                await asyncio.sleep(BEAT_S)
                if process.returncode is not None or num_missed >= MOST_MISSED_CHECKS:
                    return
                if stalls.is_stalled(read_vitals(process.pid), is_due=False):
                    return
                if beat % BEATS_PER_CHECK == 0:
                    num_missed = 0 if await _is_healthy(client) else num_missed + 1

    def _client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=self.socket_path)
        return httpx.AsyncClient(transport=transport, timeout=HEALTH_TIMEOUT_S)

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            await self._kill(process)


async def _is_healthy(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("http://embedded/healthz")).is_success
    except httpx.HTTPError:
        return False


def _environment() -> dict[str, str]:
    """This process' environment without the service's settings, but for how much is logged.

    Settings are checked together, and the keys are no longer among them: an address that needs a
    key would be refused there.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name == LOG_LEVEL or not name.upper().startswith(PREFIX)
    }
