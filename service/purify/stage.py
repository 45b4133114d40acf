"""The service's side of the purify stage: the crew that serves, and the one that takes over.

At every moment one crew takes the batches; an older one ends those that it has begun.
"""

import asyncio

from codefend.service.errors import PurificationFailed
from codefend.service.metrics import Metrics
from codefend.service.processes.supervision import Supervision
from codefend.service.purify.crew import Crew
from codefend.service.purify.generation import Generation, UnfitGeneration
from codefend.service.settings import Settings
from codefend.service.stages import BatchSource, EngineFacts

__all__ = ["PurifyStage"]

# In levels of 255, on average. A plain grey picture comes back nearly as it was from any purifier:
# one that moves it by an eighth of the range is broken, or its weights are.
MOST_GREY_DISTANCE = 32.0


class PurifyStage:
    """The workers of the present generation; all methods belong to the event loop."""

    def __init__(
        self,
        settings: Settings,
        queue: BatchSource,
        metrics: Metrics,
        generation: Generation,
        supervision: Supervision,
    ) -> None:
        self._supervision = supervision
        self._settings = settings
        self._queue = queue
        self._metrics = metrics
        self._crew = self._make_crew(generation)
        self._retiring: set[asyncio.Task[None]] = set()
        queue.pause_s = lambda: self.warm_in_s or 0.0
        queue.num_workers = 1

    @property
    def is_warm(self) -> bool:
        """Whether at least one worker has run a batch of its own and waits for more."""
        return self._crew.num_warm > 0

    @property
    def warm_in_s(self) -> float | None:
        """Seconds until a worker should take batches, 0 if one does; None if that is unknown."""
        return self._crew.warm_in_s

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the living workers of the present generation."""
        return self._crew.pids

    @property
    def generation(self) -> int:
        """The number of the generation that takes batches."""
        return self._crew.generation.number

    @property
    def facts(self) -> EngineFacts | None:
        """What the present purifier is; None before one was warm."""
        return self._crew.facts

    def start(self) -> None:
        """Begins to load the workers, in the background."""
        self._crew.start(self._supervision)
        self._crew.work()

    async def prepare(self, generation: Generation) -> Crew:
        """Starts workers of a new generation beside the present ones, and tries them out.

        Returns:
            They are warm and take no batches yet.

        Raises:
            UnfitGeneration: They cannot serve, and are gone again.
        """
        crew = self._make_crew(generation)
        crew.start(self._supervision)
        try:
            await crew.wait_until_warm()
            _check(crew)
            return crew
        except (UnfitGeneration, asyncio.CancelledError):
            await crew.retire()
            raise
        except Exception as error:
            await crew.retire()
            raise UnfitGeneration("not_warm", str(error)) from error

    def switch(self, crew: Crew) -> None:
        """Lets a prepared crew take all further batches; the old one ends what it has begun."""
        old, self._crew = self._crew, crew
        old.dismiss()
        self._queue.forget_costs()
        self._count(crew)
        crew.work()
        retiring = asyncio.create_task(old.retire())
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def stop(self) -> None:
        """Ends the workers after their present batches."""
        await asyncio.gather(self._crew.retire(), *self._retiring)
        self._give_up_waiting()

    def _make_crew(self, generation: Generation) -> Crew:
        return Crew(generation, self._settings, self._queue, self._metrics, self._count)

    def _count(self, crew: Crew) -> None:
        """Tells the queue what it may count on, if this is the crew that serves it."""
        if crew is not self._crew:
            return
        self._queue.num_workers = max(1, crew.num_warm)
        measured = crew.take_measurement()
        if measured is not None:
            self._queue.suppose_cost(measured)
        self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        """Answers everyone who waits, unless a worker is there or on its way that could."""
        if self.warm_in_s is not None:
            return
        for job in self._queue.take_all():
            if not job.done.done():
                job.done.set_exception(PurificationFailed())


def _check(crew: Crew) -> None:
    if crew.grey_distance > MOST_GREY_DISTANCE:
        reason = f"it turns grey by {crew.grey_distance:.0f} of 255 levels"
        raise UnfitGeneration("bad_output", reason)
