"""The service on Ray Serve: the application as ingress, and purifiers that scale by themselves.

`serve run deploy/ray/serve.yaml`. Ray places replicas, replaces them and counts what they need; the
queue, the batches and whom to refuse stay the service's own. Every replica reads the settings from
its environment (CODEFEND_*), which the configuration's `runtime_env` sets.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import ray
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.handle import DeploymentHandle

from codefend.models.buckets import Bucket
from codefend.models.purifier.strengths import Strength
from codefend.service.app import create_app
from codefend.service.logs import configure_logs
from codefend.service.purify.engine import EngineOptions, find_engine_loader
from codefend.service.purify.remote import PURIFIER
from codefend.service.purify.worker import run_batch, warm_up
from codefend.service.settings import Settings, load_settings
from codefend.service.stages import EngineFacts

__all__ = ["GUARDS", "PURIFIERS", "ClusterOptions", "build"]

REMOTE_ENGINE = "codefend.service.purify.remote:load_engine"
LOOK_AGAIN_S = 0.1


class ClusterOptions(BaseModel):
    """Arguments of the application, below `args` in the configuration.

    Attributes:
        batches_at_once: Batches that one ingress replica has under way: as many as there may be
            purifiers, divided by the ingress replicas, and one more, so that none waits for work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batches_at_once: int = Field(2, ge=1, le=64)


class PurifierReplica:
    """One device: the engine of a worker, without the service's process around it."""

    def __init__(self) -> None:
        settings = load_settings()
        configure_logs(settings.log_level)
        options = EngineOptions.of(settings, settings.devices[0])
        self._engine = find_engine_loader(settings.engine)(options)
        warm_up(self._engine)

    def describe(self) -> EngineFacts:
        """What its engine is."""
        return self._engine.facts

    def run_batch(
        self,
        bucket: Bucket,
        uploads: Sequence[NDArray[np.uint8]],
        strength: Strength = Strength.STANDARD,
    ) -> tuple[list[NDArray[np.uint8]], list[float | None]]:
        """Purifies images of one bucket, as a worker does."""
        return run_batch(self._engine, bucket, uploads, strength)

    def suspect(self, upload: NDArray[np.uint8], purified: NDArray[np.uint8]) -> float | None:
        """How much an upload looks attacked."""
        return self._engine.suspect(upload, purified)


class Guard:
    """The application of one ingress replica; Ray's proxy brings its requests."""

    def __init__(self, purifiers: DeploymentHandle, options: ClusterOptions) -> None:
        self._batches_at_once = options.batches_at_once
        self._purifiers = purifiers  # the workers find it by its name

    def __serve_build_asgi_app__(self) -> FastAPI:
        settings = load_settings()
        configure_logs(settings.log_level)
        # Ray's own main program, which every process of the service would run anew as it starts:
        # those that read strangers' bytes should know nothing of a cluster.
        sys.modules["__main__"].__file__ = None
        # Where its workers join: there may be other clusters on the machine.
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        app = create_app(behind_ray(settings, self._batches_at_once))
        self._runtime = app.state.runtime
        inner = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(running: FastAPI) -> AsyncIterator[Any]:
            async with inner(running) as state:
                # Ray sends requests as soon as this is over, and ends others' replicas for it.
                while not self._runtime.pipeline.is_warm:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_AGAIN_S)
                yield state

        app.router.lifespan_context = lifespan
        return app

    def check_health(self) -> None:
        """Ray asks this now and then, and replaces a replica that raises.

        Raises:
            RuntimeError: A part has failed without which the service only looks alive.
        """
        if self._runtime.failure is not None:
            msg = f"{self._runtime.failure} has failed"
            raise RuntimeError(msg)


# A device runs one batch at a time; what waits is counted by Ray, which scales on it.
PURIFIERS = serve.deployment(PurifierReplica, name=PURIFIER, max_ongoing_requests=1)
GUARDS = serve.deployment(serve.ingress()(Guard), name="Guard", max_ongoing_requests=1024)


def behind_ray(settings: Settings, batches_at_once: int) -> Settings:
    """The settings of an ingress: as many workers as batches at once, each of which asks Ray."""
    devices = ("cpu",) * batches_at_once
    return settings.model_copy(update={"engine": REMOTE_ENGINE, "devices": devices})


def build(args: ClusterOptions) -> serve.Application:
    """Builds the application; the configuration says how many replicas of what there are.

    Args:
        args: What stands below `args` in the configuration.
    """
    return GUARDS.bind(PURIFIERS.bind(), args)
