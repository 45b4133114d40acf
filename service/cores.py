"""How many threads the purifier, the embedded model and the writer of prompts compute with.

More threads than cores, each spinning for the others, cost all of them more than they give: these
do not fight. What decodes and encodes has one thread a process, and works while they compute.
"""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ThreadShares", "share_threads", "usable_cores"]

# A small model's steps are short: more threads than these wait for each other.
MOST_SMALL = 4
# From so many cores on, one or two are left to the API process and to what decodes and encodes.
ONE_LEFT, TWO_LEFT = 3, 8


@dataclass(frozen=True, slots=True)
class ThreadShares:
    """Threads that each process computes with.

    Attributes:
        purifier: Of each worker on a CPU.
        embedded: Of the embedded model.
        writer: Of the language model that writes prompts.
    """

    purifier: int
    embedded: int
    writer: int


def share_threads(num_cores: int, num_purifiers: int = 1) -> ThreadShares:
    """Shares the cores out.

    The embedded model and the purifier of one request take turns; of many, they work at once. A
    prompt is written while its image is purified, so the writer has the smallest part.

    Args:
        num_cores: That this service may use, at least 1.
        num_purifiers: Workers on a CPU, at least 1.
    """
    left = (num_cores >= ONE_LEFT) + (num_cores >= TWO_LEFT)
    return ThreadShares(
        purifier=max(1, (num_cores - left) // num_purifiers),
        embedded=max(1, min(MOST_SMALL, num_cores // 2)),
        writer=max(1, min(MOST_SMALL, num_cores // 4)),
    )


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: those it may run on, within its container's quota.

    Args:
        quota: Where Linux says what a container may take: microseconds of each period, or max.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        most_us, period_us = quota.read_text(encoding="ascii").split()
        return max(1, min(allowed or 1, int(most_us) // int(period_us)))
    except (OSError, ValueError):  # there is none
        return allowed or 1
