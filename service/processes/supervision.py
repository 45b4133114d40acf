"""Keeps processes and tasks alive: starts them again when they end, and says so when it cannot."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from codefend.service.processes.child import Child, ChildDied, LaunchFailed
from codefend.service.processes.heartbeat import BEAT_S, HeartbeatMonitor, StallDetector, Vitals
from codefend.service.processes.messages import Ask, Message

__all__ = ["Backoff", "SupervisedChild", "Supervision"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Between starts that fail: the pause doubles from one to the next.
RESTART_PAUSE_LIMITS_S = (2.0, 60.0)
# Where there was no process at all, as files or memory were lacking, a try costs next to nothing.
LAUNCH_PAUSE_S = 1.0


class Backoff:
    """How long to wait before a process is started again."""

    def __init__(self) -> None:
        self._pause_s, self._longest_s = RESTART_PAUSE_LIMITS_S

    def reset(self) -> None:
        """Says that a start succeeded."""
        self._pause_s, _ = RESTART_PAUSE_LIMITS_S

    def pause_s(self, error: Exception) -> float:
        """Seconds to wait after a start that failed so."""
        if isinstance(error, LaunchFailed | OSError):
            return LAUNCH_PAUSE_S
        pause_s, self._pause_s = self._pause_s, min(self._longest_s, 2 * self._pause_s)
        return pause_s


class Supervision:
    """Tasks that must not fail while the service runs: one that does takes the service down.

    A service that goes on without the task that replaces its workers looks alive, and is not.
    """

    def __init__(self, on_failure: Callable[[str], None]) -> None:
        """Takes who is told the name of a task that failed."""
        self._on_failure = on_failure

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task; it may return, or be cancelled, but not raise."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._look_at)
        return task

    def _look_at(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        logger.critical("%s has failed", task.get_name(), exc_info=task.exception())
        self._on_failure(task.get_name())


class SupervisedChild:
    """One child process and the thread that talks to it; all methods belong to the event loop.

    Attributes:
        is_warm: Whether it can be called.
        is_due: Whether it owes an answer at present.
        vitals: What the kernel said of the process when it was last watched, every `BEAT_S` or so.
    """

    def __init__(
        self, child: Child, start_timeout_s: float, silence_s: float | None = None
    ) -> None:
        """Takes a child that is not launched yet.

        Args:
            child: The process.
            start_timeout_s: Time for it to become ready.
            silence_s: Time without a heartbeat after which it is ended; None for a child that has
                none, whose use of the processor is looked at instead.
        """
        self.is_warm = False
        self.is_due = False
        self.vitals: Vitals | None = None
        self._child = child
        self._start_timeout_s = start_timeout_s
        self._silence_s = silence_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=child.name)
        self._lost = asyncio.Event()

    @property
    def name(self) -> str:
        """For logs."""
        return self._child.name

    @property
    def pid(self) -> int | None:
        """Process id, while there is a process."""
        return self._child.pid

    async def start(self) -> dict[str, Any]:
        """Starts the process and waits until it is ready.

        Returns:
            What it says about itself.

        Raises:
            ChildDied: It did not become ready.
        """
        self._lost.clear()
        watching = asyncio.create_task(self._watch(is_starting=True))
        try:
            description = await self._in_thread(self._start_blocking)
        finally:
            watching.cancel()
        self.vitals = self._child.read_vitals()
        self.is_warm = True
        return description

    async def call(
        self, meta: dict[str, Any], blob: bytes, timeout_s: float, reply: Ask
    ) -> Message:
        """Sends one message and waits for the answer, as `Child.call` does."""
        self.is_due = True
        try:
            return await self._in_thread(lambda: self._child.call(meta, blob, timeout_s, reply))
        except ChildDied:
            self._lost.set()
            raise
        finally:
            self.is_due = False

    async def watch(self) -> None:
        """Returns when the process has ended, or had to be ended as it did nothing any more."""
        await self._watch(is_starting=False)

    async def clear_away(self) -> None:
        """Ends what is left of a process that is of no more use, so that `start` may follow."""
        self.is_warm = False
        self._child.kill()
        await self._in_thread(self._child.stop)

    async def stop(self) -> None:
        """Ends the process for good: after its present message, or at once if it is not warm."""
        if not self.is_warm:
            self._child.kill()
        self.is_warm = False
        await self._in_thread(self._child.stop)
        self._thread.shutdown(wait=False)

    def kill(self) -> None:
        """Ends the process at once, whatever it does."""
        self._child.kill()

    async def _watch(self, *, is_starting: bool) -> None:
        monitor = None if self._silence_s is None else HeartbeatMonitor(self._silence_s)
        stalls = StallDetector()
        while is_starting or not (self._lost.is_set() or self._child.has_ended()):
            # A child with a heart of its own may wait for its device, and uses no processor then.
            is_due = self.is_due and monitor is None
            is_silent = (
                monitor is not None
                and not is_starting
                and not monitor.is_alive(self._child.count_beats())
            )
            self.vitals = self._child.read_vitals()
            if is_silent or stalls.is_stalled(self.vitals, is_due=is_due):
                logger.error("%s does nothing any more", self.name)
                self._child.kill()
            await _wait(self._lost, BEAT_S)

    def _start_blocking(self) -> dict[str, Any]:
        self._child.launch()
        return self._child.wait_until_ready(self._start_timeout_s)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
