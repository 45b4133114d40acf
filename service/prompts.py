"""What goes to the model beside a question: the template, or what is written for the question.

A language model in a process of its own writes, in batches and within its time. What is late, or is
not in plain words, is no loss: the template takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from codefend.models.prompts.templates import Task, Template
from codefend.service.cores import share_threads, usable_cores
from codefend.service.fairness import FairScheduler
from codefend.service.policy import Mode
from codefend.service.processes.child import Ask, Child, ChildDied, Handler, Message, bound_spinning
from codefend.service.processes.pool import ChildPool, PoolJob
from codefend.service.processes.supervision import Supervision
from codefend.service.protocols.prompting import Placing, PromptPlace, PromptSource

if TYPE_CHECKING:
    from codefend.service.context import RequestContext
    from codefend.service.settings import Settings

__all__ = ["PromptWriter", "Prompts", "WriterConfig", "make_writer"]

logger = logging.getLogger(__name__)

MAX_BATCH = 8
# What waits beyond would be late anyway.
MAX_WAITING = 64
# Of a batch: a process that takes longer is replaced.
BATCH_TIMEOUT_S = 30.0
# Prompts that are kept: in a later request of a conversation the same stands where it stood.
MAX_KEPT = 4096


class Prompts:
    """Chooses what is put to the model; all methods belong to the event loop.

    Attributes:
        templates: The prompt of each task; they change when weights are reloaded.
    """

    def __init__(
        self, templates: Mapping[Task, Template], writer: PromptWriter | None = None
    ) -> None:
        """Takes the templates.

        Args:
            templates: The prompt of each task.
            writer: Writes others; None where templates are all there is.
        """
        self.templates = templates
        self._writer = writer

    def start(self, supervision: Supervision) -> None:
        """Starts the writer, if there is one."""
        if self._writer is not None:
            self._writer.start(supervision)

    async def stop(self) -> None:
        """Ends the writer."""
        if self._writer is not None:
            await self._writer.stop()

    def template(self, settings: Settings, context: RequestContext, task: Task) -> Template | None:
        """The prompt of a request; none where the model is to get what was sent."""
        is_on = settings.prompt is not PromptSource.OFF
        return self.templates[task] if is_on and context.policy.mode is Mode.ENFORCE else None

    def placing(self, settings: Settings, template: Template | None) -> Placing | None:
        """Where prompts go; what may say nothing has no place but around what is said."""
        if template is not None and template.instructions:
            return Placing(settings.prompt_place)
        may_say = template is not None and self._writer is not None
        return Placing(PromptPlace.TURN, adds_parts=False) if may_say else None

    def begin(
        self, context: RequestContext, template: Template | None, questions: Sequence[str]
    ) -> asyncio.Future[list[Template]]:
        """Begins to write the prompts of some questions, while their images are purified.

        Args:
            context: Of the request; what it no longer waits for is given up.
            template: What serves where nobody writes, or not in time; None for no prompt at all.
            questions: Each gets one.
        """
        if template is None or self._writer is None or not questions:
            done = asyncio.get_running_loop().create_future()
            done.set_result([template] * len(questions) if template else [])
            return done
        writing = asyncio.create_task(self._writer.write(questions, context.caller, template))
        context.on_finish.append(writing.cancel)
        return writing


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """What the process is told.

    Attributes:
        adapter: Directory of the generator's adapter.
        base: Directory or hub id of the model that it adapts; None for the one that it names.
        cpu_threads: Of torch.
    """

    adapter: str
    base: str | None
    cpu_threads: int

    @classmethod
    def of(cls, settings: Settings) -> WriterConfig | None:
        """What these settings ask for, with its share of the cores; None where nobody writes."""
        if settings.prompt is not PromptSource.GENERATOR or settings.prompt_generator is None:
            return None
        threads = share_threads(usable_cores()).writer
        return cls(settings.prompt_generator, settings.prompt_generator_base, threads)


@dataclass(slots=True, eq=False)
class _Waiting:
    """One question on its way."""

    question: str
    caller: str
    prefix: asyncio.Future[str | None] = field(default_factory=asyncio.Future)


class PromptWriter:
    """The service's side; all methods belong to the event loop."""

    def __init__(
        self,
        config: WriterConfig,
        budget_s: float,
        start_timeout_s: float,
        on_restart: Callable[[], None],
        on_outcome: Callable[[str], None] = lambda _: None,
        make: Callable[[WriterConfig], tuple[Handler, dict[str, Any]]] | None = None,
    ) -> None:
        """Takes what is written with; nothing starts yet.

        Args:
            config: Of the process.
            budget_s: Time for a prompt.
            start_timeout_s: Time for the process to load its model.
            on_restart: Called whenever it is replaced.
            on_outcome: Told of each question: `written`, `late` or `unfit`.
            make: Makes the message handler of the process; None for `make_writer`.
        """
        self._budget_s = budget_s
        self._on_outcome = on_outcome
        self._pool = ChildPool(
            lambda index: Child(f"prompt-{index}", make or make_writer, config),
            1,
            start_timeout_s,
            on_restart,
        )
        self._facts: dict[str, str] | None = None
        self._scheduler = FairScheduler()
        self._waiting: deque[_Waiting] = deque()
        self._kept: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._has_work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, supervision: Supervision) -> None:
        """Starts the process; until it is ready, templates serve."""
        self._tasks = [
            asyncio.create_task(self._bring_up(supervision)),
            supervision.start("writer of prompts", self._write_batches()),
        ]

    async def stop(self) -> None:
        """Ends the process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.stop()

    async def write(
        self, questions: Sequence[str], caller: str, template: Template
    ) -> list[Template]:
        """Writes the prompts of one request's questions.

        Args:
            questions: At least one.
            caller: Whose they are.
            template: What serves where none is written in time.

        Returns:
            One prompt for each question.
        """
        missing = {
            question: _Waiting(question, caller)
            for question in questions
            if (caller, question) not in self._kept
        }
        if self._facts is not None and len(missing) <= MAX_WAITING - len(self._waiting):
            await self._wait_for(list(missing.values()), caller)
        return [self._prompt_of(missing.get(each), caller, each, template) for each in questions]

    async def _wait_for(self, asked: list[_Waiting], caller: str) -> None:
        if not asked:
            return
        if all(each.caller != caller for each in self._waiting):
            self._scheduler.arrive(caller)
        self._waiting += asked
        self._has_work.set()
        try:
            await asyncio.wait([each.prefix for each in asked], timeout=self._budget_s)
        finally:
            for each in asked:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(each)

    def _prompt_of(
        self, asked: _Waiting | None, caller: str, question: str, template: Template
    ) -> Template:
        kept = self._kept.get((caller, question))
        if kept is not None and self._facts is not None:
            self._kept.move_to_end((caller, question))
            self._on_outcome("written")
            return template.with_prefix(kept, **self._facts)
        self._on_outcome("unfit" if asked is not None and asked.prefix.done() else "late")
        return template

    async def _bring_up(self, supervision: Supervision) -> None:
        try:
            (self._facts,) = await self._pool.start(supervision)
        except ChildDied as error:
            logger.error("prompts are not written, the template serves: %s", error)
        else:
            logger.info("prompts are written", extra={"fields": self._facts})

    async def _write_batches(self) -> None:
        while True:
            await self._has_work.wait()
            batch = self._take_batch()
            if not batch:
                self._has_work.clear()
                continue
            prefixes = await self._ask([each.question for each in batch])
            for each, prefix in zip(batch, prefixes, strict=True):
                each.prefix.set_result(prefix)
                if prefix is not None:
                    self._kept[each.caller, each.question] = prefix
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

    def _take_batch(self) -> list[_Waiting]:
        """What is written next, each caller in turn."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < MAX_BATCH:
            first = min(self._waiting, key=lambda each: self._scheduler.virtual_time(each.caller))
            self._waiting.remove(first)
            self._scheduler.spend([(first.caller, 1)])
            batch.append(first)
        return batch

    async def _ask(self, questions: list[str]) -> list[str | None]:
        try:
            job = PoolJob({"questions": questions}, b"", BATCH_TIMEOUT_S)
            answer, _ = await self._pool.run(job)
        except ChildDied:
            return [None] * len(questions)
        return list(answer["prefixes"])


def make_writer(config: WriterConfig) -> tuple[Handler, dict[str, Any]]:
    """Loads the model; returns the message handler of the process, and what the generator is.

    Raises:
        OSError: There is no such model.
        ValueError: It does not fit.
    """
    import torch

    from codefend.models.prompts.generator import PrefixGenerator

    bound_spinning()
    torch.set_num_threads(config.cpu_threads)
    generator = PrefixGenerator.load(config.adapter, config.base)
    generator.write(["what is in the image?"])

    def write(meta: dict[str, Any], _: bytes, __: Ask) -> Message:
        return {"prefixes": generator.write(meta["questions"])}, b""

    return write, {"name": generator.name, "version": generator.version}
