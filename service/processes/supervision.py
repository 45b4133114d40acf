"""Tasks that must not fail while the service runs, and how soon a process is started again."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from codefend.service.processes.child import LaunchFailed

__all__ = ["Backoff", "Supervision"]

logger = logging.getLogger(__name__)

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
