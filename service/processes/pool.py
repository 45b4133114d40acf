"""Children that are watched, and a fixed set of them that shares one queue of work fairly.

A child that is lost costs nobody an answer: what it had under way goes to another one.
"""

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from codefend.service.fairness import FairScheduler
from codefend.service.processes.child import (
    Ask,
    Child,
    ChildDied,
    ChildTimeout,
    Message,
    ask_nothing,
)
from codefend.service.processes.heartbeat import BEAT_S, HeartbeatMonitor, StallDetector, Vitals
from codefend.service.processes.supervision import Backoff, Supervision

__all__ = ["ChildPool", "PoolJob", "SupervisedChild"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A message whose children were lost so often may be what ends them.
MOST_LOSSES = 2
# Of the time that a child had for an answer. One that used less of the processor was held up, and
# what it had to do is not at fault.
FAIR_CPU_SHARE = 0.25


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


@dataclass(slots=True, eq=False)
class PoolJob:
    """One message on its way.

    Attributes:
        meta: What to do.
        blob: To what.
        timeout_s: Time for the answer, once a child has begun.
        caller: Whose it is.
        cost: What it counts for its caller: bytes or pixels, whatever takes the time.
        reply: Answers what the child asks meanwhile; called in a thread.
        num_losses: Children that were lost with it.
        done: Completed with the answer.
    """

    meta: dict[str, Any]
    blob: bytes
    timeout_s: float
    caller: str = ""
    cost: int = 1
    reply: Ask = ask_nothing
    num_losses: int = 0
    done: asyncio.Future[Message] = field(default_factory=asyncio.Future)


class ChildPool:
    """Runs messages on idle children; all methods belong to the event loop."""

    def __init__(
        self,
        make_child: Callable[[int], Child],
        size: int,
        start_timeout_s: float,
        on_restart: Callable[[], None],
        is_shared: Callable[[], bool] = lambda: False,
    ) -> None:
        """Takes what makes the children.

        Args:
            make_child: Builds the n-th child, not yet launched.
            size: How many there are.
            start_timeout_s: Time for one child to become ready.
            on_restart: Called whenever a child is replaced.
            is_shared: Says whether there is more than one caller who could come. Then none may
                have all children at once: another's message waits for none of its own.
        """
        self._children = [
            SupervisedChild(make_child(index), start_timeout_s) for index in range(size)
        ]
        self._on_restart = on_restart
        self._is_shared = is_shared
        self._scheduler = FairScheduler()
        self._waiting: dict[str, deque[PoolJob]] = {}
        self._running: Counter[str] = Counter()
        self._idle: deque[SupervisedChild] = deque()
        self._supervisors: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the living children."""
        return [child.pid for child in self._children if child.pid is not None]

    async def start(self, supervision: Supervision | None = None) -> list[dict[str, Any]]:
        """Launches all children and waits until they are ready.

        Args:
            supervision: Is told of a supervisor that fails; None where nobody is.

        Returns:
            What each says about itself.

        Raises:
            ChildDied: One did not become ready.
        """
        supervision = supervision or Supervision(lambda _: None)
        facts = await asyncio.gather(*(child.start() for child in self._children))
        self._supervisors = [
            supervision.start(f"supervisor of {child.name}", self._supervise(child))
            for child in self._children
        ]
        return facts

    async def run(self, job: PoolJob) -> Message:
        """Runs one message on the next idle child.

        A cancelled caller whose message has not begun takes it out of the queue.

        Raises:
            ChildDied: Every child that had it was lost.
            ChildTimeout: It was worked on for all of its time.
        """
        self._add(job)
        self._dispatch()
        try:
            return await job.done
        finally:
            self._forget(job)

    def charge(self, caller: str, cost: int) -> None:
        """Counts what a caller's message turned out to cost more than was known when it began."""
        self._scheduler.spend([(caller, cost)])

    async def stop(self) -> None:
        """Ends the children at once; nobody waits for an answer any more."""
        if self._is_stopping:
            return
        self._is_stopping = True
        for task in self._supervisors:
            task.cancel()
        for child in self._children:
            child.kill()
        await asyncio.gather(*self._supervisors, *self._tasks, return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in self._children))
        for jobs in self._waiting.values():
            for job in jobs:
                _fail(job, ChildDied("the pool", None))

    async def _supervise(self, child: SupervisedChild) -> None:
        """Feeds one child until it is lost, and starts it again, for ever."""
        backoff = Backoff()
        while True:
            if not child.is_warm:
                await self._bring_up(child, backoff)
            self._idle.append(child)
            self._dispatch()
            await child.watch()
            if child in self._idle:
                self._idle.remove(child)
            await child.clear_away()
            logger.error("%s is replaced", child.name)
            self._on_restart()

    async def _bring_up(self, child: SupervisedChild, backoff: Backoff) -> None:
        while not child.is_warm:
            try:
                await child.start()
            except Exception as error:  # whatever it was, the next try may succeed
                logger.error("%s did not start: %s", child.name, error)
                await child.clear_away()
                await asyncio.sleep(backoff.pause_s(error))
        backoff.reset()

    def _add(self, job: PoolJob) -> None:
        jobs = self._waiting.setdefault(job.caller, deque())
        if not jobs and not self._running[job.caller]:
            self._scheduler.arrive(job.caller)
        # One that lost its child was there before all others.
        (jobs.appendleft if job.num_losses else jobs.append)(job)

    def _forget(self, job: PoolJob) -> None:
        jobs = self._waiting.get(job.caller)
        if jobs and job in jobs:
            jobs.remove(job)

    def _dispatch(self) -> None:
        """Gives idle children what waits: first that of the caller with the lowest virtual time."""
        while self._idle and not self._is_stopping:
            caller = self._next_caller()
            if caller is None:
                return
            job = self._waiting[caller].popleft()
            child = self._idle.popleft()
            self._running[caller] += 1
            self._scheduler.spend([(caller, job.cost)])
            task = asyncio.get_running_loop().create_task(self._run_on(child, job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next_caller(self) -> str | None:
        for caller in [caller for caller, jobs in self._waiting.items() if not jobs]:
            del self._waiting[caller]
        free = list(self._waiting)
        if self._running:
            most = max(1, len(self._children) - 1) if self._is_shared() else len(self._children)
            free = [caller for caller in free if self._running[caller] < most]
        return min(free, key=self._scheduler.virtual_time, default=None)

    async def _run_on(self, child: SupervisedChild, job: PoolJob) -> None:
        vitals = child.vitals
        try:
            answer = await child.call(job.meta, job.blob, job.timeout_s, job.reply)
        except ChildDied as death:
            self._settle_loss(job, death, 0 if vitals is None else vitals.cpu_ticks)
        else:
            if not job.done.done():
                job.done.set_result(answer)
            self._idle.append(child)
        finally:
            self._running[job.caller] -= 1
            if not self._running[job.caller]:
                del self._running[job.caller]
            self._dispatch()

    def _settle_loss(self, job: PoolJob, death: ChildDied, ticks_before: int) -> None:
        """Lets a message whose child was lost go to another, unless it is what took the time."""
        job.num_losses += 1
        if isinstance(death, ChildTimeout):
            if _was_held_up(death, ticks_before, job.timeout_s):
                death = ChildDied("a child that was held up", death.exit_code)
            else:
                _fail(job, death)
                return
        if job.num_losses >= MOST_LOSSES or self._is_stopping or death.exceeded_cpu_limit:
            _fail(job, death)
        elif not job.done.done():
            self._add(job)


def _was_held_up(timeout: ChildTimeout, ticks_before: int, timeout_s: float) -> bool:
    if timeout.cpu_ticks is None:
        return False
    cpu_s = (timeout.cpu_ticks - ticks_before) / os.sysconf("SC_CLK_TCK")
    return cpu_s < FAIR_CPU_SHARE * timeout_s


def _fail(job: PoolJob, death: ChildDied) -> None:
    if not job.done.done():
        job.done.set_exception(death)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
