"""What this machine can compute with, and what runs the purifier on it."""

import importlib.util
import re
from enum import StrEnum
from pathlib import Path

__all__ = [
    "Backend",
    "GpuDtype",
    "check_backend",
    "has_accelerator",
    "has_openvino",
    "resolve_devices",
]

# What a machine shows that has an accelerator: NVIDIA's, AMD's, and any under WSL.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg")
_NVIDIA_NODE = re.compile(r"nvidia\d+")
_DEVICES = Path("/dev")


class Backend(StrEnum):
    """What runs the purifier's network."""

    AUTO = "auto"
    EAGER = "eager"
    GRAPHS = "graphs"
    OPENVINO = "openvino"


class GpuDtype(StrEnum):
    """In what precision a GPU runs the purifier."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def has_openvino() -> bool:
    """Whether its package is installed; it is looked for, and not loaded."""
    return importlib.util.find_spec("openvino") is not None


def check_backend(
    backend: Backend, devices: tuple[str, ...], device_directory: Path = _DEVICES
) -> None:
    """Checks that what is asked for by name is there.

    Args:
        backend: As set.
        devices: As set: `auto`, or explicit names.
        device_directory: Where the system lists devices.

    Raises:
        ValueError: It is not installed, or does not run on these devices.
    """
    if backend is Backend.OPENVINO:
        if not has_openvino():
            msg = (
                "CODEFEND_BACKEND=openvino needs a package that is not installed: "
                "pip install 'codefend[openvino]', or set auto"
            )
            raise ValueError(msg)
        if not set(devices) <= {"auto", "cpu"}:
            msg = "CODEFEND_BACKEND=openvino runs on CPUs: set CODEFEND_DEVICES=cpu"
            raise ValueError(msg)
    if backend is Backend.GRAPHS:
        if not all(device == "auto" or device.startswith("cuda") for device in devices):
            msg = "CODEFEND_BACKEND=graphs runs on GPUs: set CODEFEND_DEVICES=auto, or cuda:0"
            raise ValueError(msg)
        if not _shows_accelerator(device_directory):
            msg = "CODEFEND_BACKEND=graphs needs a GPU, and this machine shows none: set auto"
            raise ValueError(msg)


def resolve_devices(
    devices: tuple[str, ...],
    backend: Backend = Backend.AUTO,
    device_directory: Path = _DEVICES,
) -> list[str]:
    """Replaces `auto` by every NVIDIA GPU that the machine shows, or by `auto` itself.

    With one GPU or none the worker decides: only torch knows whether it was built for the GPU.

    Args:
        devices: As set: `auto`, or explicit names.
        backend: As set: OpenVINO leaves GPUs alone.
        device_directory: Where the system lists devices.
    """
    if devices != ("auto",):
        return list(devices)
    if backend is Backend.OPENVINO:
        return ["cpu"]
    nodes = [path for path in device_directory.glob("nvidia*") if _NVIDIA_NODE.fullmatch(path.name)]
    return ["auto"] if len(nodes) <= 1 else [f"cuda:{index}" for index in range(len(nodes))]


def has_accelerator(device_directory: Path = _DEVICES) -> bool:
    """Whether torch finds one; it is asked only where there may be, as it takes seconds to load."""
    if not _shows_accelerator(device_directory):
        return False
    import torch

    return torch.cuda.is_available()


def _shows_accelerator(device_directory: Path) -> bool:
    return any(True for pattern in _ACCELERATORS for _ in device_directory.glob(pattern))
