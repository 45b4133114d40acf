"""Weights and prompts taken up anew while requests go on: all of it works, or nothing changes."""

import asyncio
import logging
from collections.abc import Callable

from codefend.service.metrics import Metrics
from codefend.service.policy import Mode
from codefend.service.purify.model_version import (
    ModelVersion,
    UnfitModelVersion,
    check_weights,
    load_model_version,
)
from codefend.service.purify.stage import PurifyStage
from codefend.service.settings import Settings

__all__ = ["Reloader"]

logger = logging.getLogger(__name__)


class Reloader:
    """Runs one reload at a time; all methods belong to the event loop."""

    def __init__(
        self,
        settings: Settings,
        workers: PurifyStage,
        metrics: Metrics,
        on_switch: Callable[[ModelVersion], None],
    ) -> None:
        """Takes what is reloaded.

        Args:
            settings: They say where weights and prompts lie, and are not read anew.
            workers: The purifier.
            metrics: Where reloads are counted by outcome.
            on_switch: Takes up the rest of a version, in the moment when its workers take over.
        """
        self._settings = settings
        self._workers = workers
        self._metrics = metrics
        self._on_switch = on_switch
        self._is_asked = False
        self._num_loads = 1
        self._task: asyncio.Task[None] | None = None

    def request(self) -> None:
        """Begins a reload; during one, asks for one more, however often it is called."""
        self._is_asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Gives up a reload that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while self._is_asked:
            self._is_asked = False
            try:
                await self._reload()
            except Exception:  # the reload's boundary: what served before serves on
                self._metrics.reloads.labels("error").inc()
                logger.exception("reload %d failed, and changed nothing", self._num_loads)

    async def _reload(self) -> None:
        self._num_loads += 1
        logger.info("reload %d begins", self._num_loads)
        is_off = self._settings.mode is Mode.OFF
        try:
            version = await asyncio.to_thread(load_model_version, self._settings, self._num_loads)
            if not is_off:
                await asyncio.to_thread(check_weights, version)
                pool = await self._workers.prepare(version)
        except UnfitModelVersion as error:
            self._metrics.reloads.labels(error.outcome).inc()
            logger.error("reload %d failed, and changed nothing: %s", self._num_loads, error)
            return
        # No await from here on: workers and prompts change in one moment.
        if not is_off:
            self._workers.switch(pool)
        self._on_switch(version)
        self._metrics.reloads.labels("ok").inc()
        logger.info("reload %d serves: %s", version.number, version.purifier)
