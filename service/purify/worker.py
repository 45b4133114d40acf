"""What runs inside a worker process: batches of shared pixels in, purified pixels back in place."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codefend.models.buckets import Bucket, crop_from_bucket, pad_to_bucket
from codefend.models.purifier.strengths import Strength
from codefend.models.tiles import Tiling
from codefend.service.processes.child import Ask, Handler, Message, bound_spinning
from codefend.service.processes.heartbeat import read_vitals
from codefend.service.processes.pixels import lay_tile, read_tile
from codefend.service.purify.engine import (
    DeviceOutOfMemory,
    Engine,
    EngineOptions,
    RemoteEngine,
    find_engine_loader,
)
from codefend.service.stages import BatchFailure

__all__ = ["SICK_EXIT_CODE", "WorkerConfig", "make_worker", "run_batch", "warm_up"]

logger = logging.getLogger(__name__)

# The small shape warms everything up quickly; the larger one measures the cost of a pixel, and is
# so large that what a batch costs whatever its size hardly counts.
WARM_UP_BUCKETS = (Bucket(128, 128), Bucket(512, 512))
SICK_EXIT_CODE = 70


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker is told."""

    engine: str
    options: EngineOptions
    tiling: Tiling


def make_worker(config: WorkerConfig) -> tuple[Handler, dict[str, Any]]:
    """Loads the engine, warms it up, and returns the message handler and what the engine is.

    Raises:
        ValueError: The engine returned something else than a purified batch and a suspicion, or its
            purifier does not have the service's strength.
    """
    bound_spinning()
    engine = find_engine_loader(config.engine)(config.options)
    engine.facts.levels_at(config.options.strength)
    return partial(_run_batch, engine, config.tiling), asdict(engine.facts) | warm_up(engine)


def warm_up(engine: Engine) -> dict[str, float]:
    """Runs each warm-up shape twice; a device that lacks memory for the large one does without.

    Returns:
        `seconds_per_pixel` of the fastest run of the largest shape, and `grey_distance`: the levels
        by which a pixel of plain grey came back other than it was, on average.
    """
    small, large = WARM_UP_BUCKETS
    measured = _measure(engine, small)
    try:
        return _measure(engine, large)
    except (DeviceOutOfMemory, MemoryError):
        return measured


def _measure(engine: Engine, bucket: Bucket) -> dict[str, float]:
    grey = _grey(bucket)
    seconds = []
    for _ in range(2):
        started_s = time.perf_counter()
        purified = engine.purify(grey)
        seconds.append(time.perf_counter() - started_s)
    if purified.shape != grey.shape or purified.dtype != np.uint8:
        msg = f"the engine turned {grey.shape} into {purified.dtype} {purified.shape}"
        raise ValueError(msg)
    suspicion = engine.suspect(grey[0], purified[0])
    if suspicion is not None and not 0 <= suspicion <= 1:
        msg = f"the detector's suspicion is {suspicion}"
        raise ValueError(msg)
    distance = np.abs(purified.astype(np.int16) - grey).mean()
    return {
        "seconds_per_pixel": min(seconds) / bucket.num_pixels,
        "grey_distance": float(distance),
    }


def _grey(bucket: Bucket) -> NDArray[np.uint8]:
    return np.full((1, bucket.height, bucket.width, 3), 128, np.uint8)


def run_batch(
    engine: Engine,
    bucket: Bucket,
    uploads: Sequence[NDArray[np.uint8]],
    strength: Strength = Strength.STANDARD,
) -> tuple[list[NDArray[np.uint8]], list[float | None]]:
    """Purifies images of one bucket: pads them, crops them back, and asks for their suspicion.

    Args:
        engine: What purifies.
        bucket: Their padded shape.
        uploads: (H, W, 3) uint8 RGB each, no larger than the bucket.
        strength: Of all of them.

    Returns:
        The same, purified; and the suspicion of each, None where there is no detector.

    Raises:
        DeviceOutOfMemory: The device has too little memory for so large a batch.
    """
    batch = np.stack([pad_to_bucket(pixels, bucket) for pixels in uploads])
    purified = [
        crop_from_bucket(pixels, *upload.shape[:2])
        for upload, pixels in zip(uploads, engine.purify(batch, strength), strict=True)
    ]
    pairs = zip(uploads, purified, strict=True)
    return purified, [engine.suspect(upload, pixels) for upload, pixels in pairs]


def _run_batch(engine: Engine, tiling: Tiling, meta: dict[str, Any], _: bytes, __: Ask) -> Message:
    """Runs one batch; a failure is an answer, and the worker's end only if the engine is sick."""
    started_s = time.perf_counter()
    bucket = Bucket(*meta["bucket"])
    places = [(each["pixels"], tuple(each["size"]), each["tile"]) for each in meta["images"]]
    try:
        tiles = [tiling.cut(*size)[number] for _, size, number in places]
        decoded = [
            read_tile(name, size, tile) for (name, size, _), tile in zip(places, tiles, strict=True)
        ]
        remote = engine.run_batch if isinstance(engine, RemoteEngine) else None
        purified, suspicions = (remote or partial(run_batch, engine))(
            bucket, decoded, Strength(meta["strength"])
        )
        for (name, size, number), pixels in zip(places, purified, strict=True):
            lay_tile(name, size, tiling, number, pixels)
    except (DeviceOutOfMemory, MemoryError):
        logger.warning("a batch of %d in %s needs more memory than there is", len(places), bucket)
        return _failed(engine, BatchFailure.OUT_OF_MEMORY)
    except Exception:  # the worker's loop: whatever the engine raised, the next batch may succeed
        logger.exception("a batch of %d in %s failed", len(places), bucket)
        return _failed(engine, BatchFailure.RAISED)
    seconds = time.perf_counter() - started_s
    return {"seconds": seconds, "suspicions": suspicions, "memory_bytes": _memory_bytes()}, b""


def _memory_bytes() -> int:
    """Memory that this process holds of its GPU; of the host, where it has none."""
    torch = sys.modules.get("torch")  # not every engine loads it
    if torch is not None and torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        return sum(torch.cuda.memory_reserved(device) for device in devices)
    vitals = read_vitals(os.getpid())
    return 0 if vitals is None else vitals.resident_bytes


def _failed(engine: Engine, failure: BatchFailure) -> Message:
    """Answers that a batch failed, if the engine still works.

    Some errors of CUDA stay with a process: every later call fails as well. An engine that cannot
    purify a plain grey picture any more is taken to be in such a state, whatever it raised.
    """
    try:
        engine.purify(_grey(WARM_UP_BUCKETS[0]))
    except Exception:
        logger.exception("the engine is beyond use, and this worker ends")
        # At once: an orderly exit would ask a device that does not answer.
        os._exit(SICK_EXIT_CODE)
    return {"failure": failure.value}, b""
