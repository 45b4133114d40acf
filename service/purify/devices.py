"""Decides which devices get a worker, without importing torch."""

import re
from pathlib import Path

__all__ = ["resolve_devices"]

_GPU_NODE = re.compile(r"nvidia\d+")


def resolve_devices(devices: tuple[str, ...], device_directory: Path = Path("/dev")) -> list[str]:
    """Replaces `auto` by every NVIDIA GPU that the machine shows, or by `auto` itself.

    With one GPU or none the worker decides: only torch knows whether it was built for the GPU.

    Args:
        devices: As set: `auto`, or explicit names.
        device_directory: Where the system lists devices.
    """
    if devices != ("auto",):
        return list(devices)
    nodes = [path for path in device_directory.glob("nvidia*") if _GPU_NODE.fullmatch(path.name)]
    return ["auto"] if len(nodes) <= 1 else [f"cuda:{index}" for index in range(len(nodes))]
