"""From the command to ready: cold, when networks are converted first, and warm; with torch beside.

The embedded model starts, too: it is what takes longest where nothing has to be converted.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.family import measure_tree_mib
from benchmarks.report import Figure
from benchmarks.server import run_server
from codefend.service.settings import Settings

__all__ = ["measure_start"]

MOST_WARM_S = 6.0


def measure_start(purifier: str, device: str, num_starts: int) -> tuple[list[Figure], str]:
    """Starts the service with its embedded model, again and again.

    Args:
        purifier: Directory.
        device: As in CODEFEND_DEVICES.
        num_starts: Of warm ones, and of those with torch.

    Returns:
        The rows, and the device.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # Copies without what was converted earlier.
        sources = {"purifier": purifier, "detector": Settings().detector}
        copies = {
            name: str(
                shutil.copytree(
                    source, Path(scratch) / name, ignore=shutil.ignore_patterns(".openvino")
                )
            )
            for name, source in sources.items()
        }
        settings = {**copies, "devices": device, "upstream_url": ""}
        cold_s, _ = _start(settings)
        warm = [_start(settings) for _ in range(num_starts)]
        eager = [_start(settings | {"backend": "eager"}) for _ in range(num_starts)]
    (warm_s, warm_mib), (eager_s, eager_mib) = (
        [statistics.median(column) for column in zip(*starts, strict=True)]
        for starts in (warm, eager)
    )
    config = {"starts": num_starts, "baseline": "torch"}
    rows = [
        Figure("cold_start", {"starts": 1, "baseline": "torch"}, cold_s, "s", baseline=eager_s),
        Figure("warm_start", config | {"at_most_s": MOST_WARM_S}, warm_s, "s", baseline=eager_s),
        Figure("memory", config, warm_mib, "MiB", baseline=eager_mib),
    ]
    return rows, "cpu" if device == "auto" else device


def _start(settings: dict[str, str]) -> tuple[float, float]:
    """Seconds until it is ready, and the memory of all its processes then."""
    began_s = time.perf_counter()
    with run_server(**settings) as server:
        return time.perf_counter() - began_s, measure_tree_mib(server.pid)
