"""A fixed set of children that share one line of work; a child that dies is replaced at once."""

import asyncio
import contextlib
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service.processes.child import Child, ChildDied
from service.processes.messages import Message

__all__ = ["ChildPool"]


class ChildPool:
    """Runs messages on idle children; each death costs one message and no other."""

    def __init__(
        self,
        make_child: Callable[[int], Child],
        size: int,
        start_timeout_s: float,
        on_restart: Callable[[], None],
    ) -> None:
        """Takes what makes the children.

        Args:
            make_child: Builds the n-th child, not yet launched.
            size: How many there are.
            start_timeout_s: Time for one child to become ready.
            on_restart: Called, from a thread, whenever a child is replaced.
        """
        self._children = [make_child(index) for index in range(size)]
        self._start_timeout_s = start_timeout_s
        self._on_restart = on_restart
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        # One thread per child: a thread that runs always finds an idle child.
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="children")
        self._is_stopping = False

    async def start(self) -> list[dict[str, Any]]:
        """Launches all children and waits until they are ready.

        Returns:
            What each says about itself.

        Raises:
            ChildDied: One did not become ready.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._start_blocking)

    async def run(self, meta: dict[str, object], blob: bytes, timeout_s: float) -> Message:
        """Runs one message on the next idle child.

        A cancelled caller whose message has not begun takes it out of the line.

        Raises:
            ChildDied: The child ended before it answered.
            ChildTimeout: It gave no answer in time.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._run_blocking, meta, blob, timeout_s)

    async def stop(self) -> None:
        """Ends the children at once; nobody waits for an answer any more."""
        self._is_stopping = True
        await asyncio.to_thread(self._stop_blocking)

    def _start_blocking(self) -> list[dict[str, Any]]:
        for child in self._children:
            child.launch()
        facts = []
        for child in self._children:
            facts.append(child.wait_until_ready(self._start_timeout_s))
            self._idle.put(child)
        return facts

    def _run_blocking(self, meta: dict[str, object], blob: bytes, timeout_s: float) -> Message:
        child = self._idle.get()
        try:
            if child.pid is None:
                self._replace(child)
            return child.call(meta, blob, timeout_s)
        except ChildDied:
            # If this fails too, the child stays without a process and the next message tries anew.
            with contextlib.suppress(ChildDied):
                self._replace(child)
            raise
        finally:
            self._idle.put(child)

    def _replace(self, child: Child) -> None:
        if self._is_stopping:
            return
        self._on_restart()
        child.launch()
        child.wait_until_ready(self._start_timeout_s)

    def _stop_blocking(self) -> None:
        for child in self._children:
            child.kill()
        # Only then does no other thread use them, or replace them.
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.stop()
