"""The engine alone, without a service around it: the baseline of every service benchmark."""

import time
from collections.abc import Iterable

import numpy as np

from benchmarks.trace import SyntheticPicture
from codefend.models.buckets import choose_bucket, pad_to_bucket
from codefend.service.purify.engine import Engine, EngineOptions
from codefend.service.purify.torch_engine import load_engine

__all__ = ["load_warm_engine", "time_pictures"]


def load_warm_engine(purifier: str, device: str, pictures: Iterable[SyntheticPicture]) -> Engine:
    """Loads the engine and runs every given picture once."""
    engine = load_engine(EngineOptions(purifier, device))
    time_pictures(engine, pictures)
    return engine


def time_pictures(engine: Engine, pictures: Iterable[SyntheticPicture]) -> list[float]:
    """Purifies pictures one at a time, each padded to its own bucket only.

    Returns:
        Seconds for each.
    """
    seconds = []
    for picture in pictures:
        started_s = time.perf_counter()
        bucket = choose_bucket(*picture.pixels.shape[:2])
        engine.purify(pad_to_bucket(picture.pixels, bucket)[np.newaxis])
        seconds.append(time.perf_counter() - started_s)
    return seconds
