"""What is wired, started, stopped and reloaded: everything that lives as long as the service.

`Runtime` builds the stages and the `Pipeline` that leads requests through them. `Reloader` takes up
weights and prompts anew while requests go on: all of it works, or nothing changes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial

from codefend.models.codec import ImageFormat
from codefend.service.admit.limits import ConcurrencyLimiter, ConcurrencyLimits, MemoryBudget
from codefend.service.context import RequestContext, RequestsInFlight
from codefend.service.credentials import KeyRing
from codefend.service.decode.stage import DecodeStage
from codefend.service.encode.stage import EncodeStage
from codefend.service.forward.embedded import EmbeddedModel
from codefend.service.forward.upstream import make_upstream
from codefend.service.metrics import Metrics
from codefend.service.pipeline import Pipeline
from codefend.service.policy import Mode
from codefend.service.processes.child import memory_of_processes
from codefend.service.processes.heartbeat import read_vitals
from codefend.service.processes.pixels import PixelStore
from codefend.service.processes.supervision import Supervision
from codefend.service.prompts import Prompts, PromptWriter, WriterConfig
from codefend.service.purify.model_version import (
    ModelVersion,
    UnfitModelVersion,
    check_weights,
    load_model_version,
)
from codefend.service.purify.stage import PurifiedCache, PurifyStage
from codefend.service.quarantine import Quarantine, Vault
from codefend.service.queueing.batching import BatchLimits
from codefend.service.queueing.estimates import BatchCosts, Throughput
from codefend.service.queueing.image_queue import ImageQueue
from codefend.service.settings import Settings
from codefend.service.shield import DiffusionShield, ImageStages, PassThrough, Shield
from codefend.service.stages import DecodedImage
from codefend.service.startup import describe_start, installed_version

__all__ = ["READY", "Reloader", "Runtime"]

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.05
READY = "ready"


class Runtime:
    """Owns the stages; all methods belong to the event loop.

    Attributes:
        pipeline: Leads requests through the stages.
        keys: Who may come in.
        in_flight: The ledger of requests.
        limiter: Says how many requests may be in flight.
        memory: Says how many bytes they may hold.
        queue: Where images wait for the purifier.
        workers: The purifier; not started where purification is off.
        embedded: The embedded model; None in front of an upstream.
        reloader: Takes up weights and prompts anew.
        failure: What has failed without which the service only looks alive; None while nothing has.
        on_failure: Called when that happens.
        on_ready: Called with the seconds since the start, once everything is warm.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Builds everything; nothing starts yet.

        Raises:
            UnfitModelVersion: The prompts are malformed.
            ValueError: The file of keys is.
        """
        self.metrics = metrics
        self._began_at_s = time.monotonic()
        self._waiting_for_warmth: asyncio.Task[None] | None = None
        self.failure: str | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.on_ready: Callable[[float], None] = lambda _: None
        self.supervision = Supervision(self._fail)
        version = load_model_version(settings, 1)
        metrics.generation.set(version.number)
        self.keys = KeyRing(
            (key.get_secret_value() for key in settings.api_keys), settings.api_keys_file
        )
        # Keys come and go: it is asked anew every time.
        self._is_shared: Callable[[], bool] = partial(getattr, self.keys, "is_shared")
        self.in_flight = RequestsInFlight()
        self.memory = MemoryBudget(settings.max_memory_bytes, self._is_shared)
        throughput = Throughput(time.monotonic)
        self.limiter = self._make_limiter(settings, throughput)
        self.queue = self._make_queue(settings, throughput)
        self.workers = PurifyStage(settings, self.queue, metrics, version, self.supervision)
        self._images = self._make_stages(settings)
        self.quarantine = self._make_quarantine(settings)
        shield: Shield = DiffusionShield(self._images, metrics, self._keep_flagged)
        self._is_off = settings.mode is Mode.OFF
        if self._is_off:
            shield = PassThrough(self._images.decode)
        self.embedded = self._make_embedded(settings) if settings.upstream_url is None else None
        socket_path = self.embedded.socket_path if self.embedded else None
        self._upstream = make_upstream(settings, socket_path, metrics, self._is_shared)
        self._prompts = Prompts(version.templates, self._make_writer(settings))
        self.pipeline = Pipeline(
            settings,
            metrics,
            self._prompts,
            self.memory,
            self._images.decode,
            shield,
            (self._upstream, self.embedded),
        )
        workers = None if self._is_off else self.workers
        self.reloader = Reloader(settings, workers, metrics, self._take_up)
        self._describe(settings)

    def _describe(self, settings: Settings) -> None:
        """Tells the metrics what is only known when it is asked."""
        metrics = self.metrics
        metrics.version.info({"version": installed_version()})
        metrics.requests_limit.set(settings.max_requests)
        metrics.queue_limit.set(settings.max_queue)
        metrics.memory_limit_bytes.set(settings.max_memory_bytes)
        metrics.ready.set_function(lambda: self.readiness()[0] == READY)
        metrics.process_memory.read = self._memory_of_processes
        metrics.queue_depth.set_function(lambda: len(self.queue))
        metrics.in_flight.set_function(lambda: self.in_flight.num_inside)
        metrics.held_bytes.set_function(lambda: self.memory.num_held)

    def _memory_of_processes(self) -> Iterator[tuple[str, int]]:
        yield from memory_of_processes()
        pid = None if self.embedded is None else self.embedded.pid
        vitals = None if pid is None else read_vitals(pid)
        if vitals is not None:
            yield "mllm", vitals.resident_bytes

    def readiness(self) -> tuple[str, str | None]:
        """Whether requests can be served: `ready`, or what is in the way.

        Returns:
            That, and what there is to say of the upstream: one that does not answer is its own
            concern, and changes nothing.
        """
        if self.limiter.is_draining:
            return "draining", None
        if not self.pipeline.is_warm:
            return "warming", None
        state = self.pipeline.upstream.probe.state
        return (READY if state.wrong is None else "misconfigured"), state.sentence

    def _make_limiter(self, settings: Settings, throughput: Throughput) -> ConcurrencyLimiter:
        limits = ConcurrencyLimits(
            settings.max_requests, is_shared=self._is_shared, deadline_s=settings.deadline_s
        )
        return ConcurrencyLimiter(limits, self.in_flight, throughput.per_second)

    def _make_queue(self, settings: Settings, throughput: Throughput) -> ImageQueue:
        limits = BatchLimits(
            settings.max_batch,
            settings.max_batch_pixels,
            settings.batch_wait_fraction,
            settings.batch_join_waste,
        )
        return ImageQueue(limits, BatchCosts(), settings.max_queue, self.in_flight, throughput)

    def _make_stages(self, settings: Settings) -> ImageStages:
        restarts, pixels = self.metrics.worker_restarts, PixelStore()
        decode_restarts, encode_restarts = (
            restarts.labels(stage).inc for stage in ("decode", "encode")
        )
        return ImageStages(
            DecodeStage(settings, str(pixels.directory), decode_restarts, self._is_shared),
            self.queue,
            self.workers,
            EncodeStage(
                settings.encode_workers, settings.jpeg_quality, encode_restarts, self._is_shared
            ),
            PurifiedCache(settings.cache_bytes, settings.cache_lifetime_s),
            pixels,
            self.memory,
            settings.tiling,
        )

    def _make_embedded(self, settings: Settings) -> EmbeddedModel:
        restarts = self.metrics.worker_restarts.labels("mllm").inc
        return EmbeddedModel(settings.mllm, settings.worker_start_timeout_s, restarts)

    def _make_writer(self, settings: Settings) -> PromptWriter | None:
        config = WriterConfig.of(settings)
        if config is None:
            return None
        return PromptWriter(
            config,
            settings.prompt_timeout_s,
            settings.worker_start_timeout_s,
            self.metrics.worker_restarts.labels("prompt").inc,
            lambda outcome: self.metrics.prompts.labels(outcome).inc(),
        )

    def _make_quarantine(self, settings: Settings) -> Quarantine | None:
        directory, key = settings.quarantine_directory, settings.quarantine_key
        if directory is None or key is None:
            return None
        vault = Vault(directory, key, settings.quarantine_max_bytes, settings.quarantine_lifetime_s)
        outcomes = self.metrics.quarantine
        return Quarantine(
            vault,
            partial(self._images.encode.encode, image_format=ImageFormat.PNG, in_url=False),
            lambda outcome: outcomes.labels(outcome).inc(),
            self.metrics.quarantine_bytes.set,
        )

    def _keep_flagged(self, context: RequestContext, image: DecodedImage) -> None:
        if self.quarantine is not None:
            self.quarantine.offer(context, image)

    async def start(self) -> None:
        """Starts every process; models load in the background.

        Raises:
            OSError: The directory of the quarantine cannot be made.
        """
        description = describe_start(self.pipeline.settings, self.keys.num_callers)
        logger.info("starting", extra={"fields": description})
        if self._is_off:
            # Not even loaded: the switch has to work where the purifier is what is broken.
            logger.warning("purification is off: images reach the model as they were sent")
        else:
            self.workers.start()
        if self.embedded is not None:
            self.embedded.start(self.supervision)
        self._prompts.start(self.supervision)
        self._upstream.probe.start()
        if self.quarantine is not None:
            self.quarantine.start(self.supervision)
        await self._images.decode.start(self.supervision)
        await self._images.encode.start(self.supervision)
        self._waiting_for_warmth = asyncio.create_task(self._say_when_warm())

    async def _say_when_warm(self) -> None:
        # Workers and model are looked after by others: none of them need know who waits.
        while not self.pipeline.is_warm:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)
        purifier = self.pipeline.shield.facts
        seconds = time.monotonic() - self._began_at_s
        fields = {
            "seconds": round(seconds, 1),
            "purifier": purifier and f"{purifier.name} {purifier.version}",
            "device": purifier and purifier.device,
            "backend": purifier and purifier.backend,
        }
        logger.info("ready", extra={"fields": fields})
        self.on_ready(seconds)

    async def stop(self) -> None:
        """Ends every process, started or not; what goes wrong with one keeps none of the others."""
        if self._waiting_for_warmth is not None:
            self._waiting_for_warmth.cancel()
        async with AsyncExitStack() as ending:  # the last first
            ending.callback(self._images.pixels.close)
            ending.push_async_callback(self._images.encode.stop)
            ending.push_async_callback(self._images.decode.stop)
            if self.embedded is not None:
                ending.push_async_callback(self.embedded.stop)
            ending.push_async_callback(self._prompts.stop)
            ending.push_async_callback(self.workers.stop)
            ending.push_async_callback(self._upstream.close)
            if self.quarantine is not None:
                ending.push_async_callback(self.quarantine.stop)
            ending.push_async_callback(self.pipeline.close)
            ending.push_async_callback(self.reloader.stop)

    def _fail(self, name: str) -> None:
        """Says that a part has failed without which the service only looks alive."""
        if self.failure is None:
            self.failure = name
            self.on_failure()

    def _take_up(self, version: ModelVersion) -> None:
        self._prompts.templates = version.templates
        self.metrics.generation.set(version.number)
        # What older weights made must not be sent as the new ones' work.
        self._images.cache.clear()


class Reloader:
    """Runs one reload at a time; all methods belong to the event loop."""

    def __init__(
        self,
        settings: Settings,
        workers: PurifyStage | None,
        metrics: Metrics,
        on_switch: Callable[[ModelVersion], None],
    ) -> None:
        """Takes what is reloaded.

        Args:
            settings: They say where weights and prompts lie, and are not read anew.
            workers: The purifier; None where purification is off.
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
        workers = self._workers
        try:
            version = await asyncio.to_thread(load_model_version, self._settings, self._num_loads)
            if workers is not None:
                await asyncio.to_thread(check_weights, version)
                pool = await workers.prepare(version)
        except UnfitModelVersion as error:
            self._metrics.reloads.labels(error.outcome).inc()
            logger.error("reload %d failed, and changed nothing: %s", self._num_loads, error)
            return
        # No await from here on: workers and prompts change in one moment.
        if workers is not None:
            workers.switch(pool)
        self._on_switch(version)
        self._metrics.reloads.labels("ok").inc()
        logger.info("reload %d serves: %s", version.number, version.purifier)
