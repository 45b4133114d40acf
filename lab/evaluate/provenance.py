"""Where a report comes from: commit, device, date."""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

__all__ = ["provenance"]


def provenance(
    *, seed: int, weights: dict[str, str], device: str, data: str = ""
) -> dict[str, Any]:
    """The report's ``meta``.

    Args:
        seed: of the run.
        weights: name to sha256.
        device: torch device that the models ran on.
        data: what was evaluated on; nothing is said of it where empty.
    """
    return {
        "commit": _commit(),
        "device": _device_name(device),
        "seed": seed,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": weights,
        **({"data": data} if data else {}),
    }


def _commit() -> str:
    """The checked-out commit, with -dirty where tracked files differ; unknown outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
