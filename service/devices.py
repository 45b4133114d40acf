"""What this machine can compute with, and what runs the purifier on it."""

import importlib.util
import re
from enum import StrEnum
from pathlib import Path

__all__ = [
    "Backend",
    "CpuDtype",
    "GpuDtype",
    "check_backend",
    "check_cpu_dtype",
    "has_accelerator",
    "has_int8_products",
    "has_openvino",
    "has_torch",
    "resolve_devices",
]

# What a machine shows that has an accelerator: NVIDIA's, AMD's, and any under WSL.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg")
_NVIDIA_NODE = re.compile(r"nvidia\d+")
_DEVICES = Path("/dev")
_INT8_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8"}


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


class CpuDtype(StrEnum):
    """In what precision a CPU runs the purifier."""

    AUTO = "auto"
    FLOAT32 = "float32"
    INT8 = "int8"


def has_int8_products(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies 8-bit integers four at a time: VNNI, or AMX.

    Args:
        cpu_info: Where Linux lists what processors can do; what is not listed is not there.
    """
    try:
        listed = re.findall(r"^flags\s*:(.*)$", cpu_info.read_text(), re.MULTILINE)
    except OSError:
        return False
    return bool(listed) and all(_INT8_PRODUCTS & set(flags.split()) for flags in listed)


def has_openvino() -> bool:
    """Whether its package is installed; it is looked for, and not loaded."""
    return importlib.util.find_spec("openvino") is not None


def has_torch() -> bool:
    """Whether its package is installed; it is looked for, and not loaded."""
    return importlib.util.find_spec("torch") is not None


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


def check_cpu_dtype(cpu_dtype: CpuDtype, backend: Backend) -> None:
    """Checks that the backend computes in what is asked for by name.

    Raises:
        ValueError: It does not.
    """
    if cpu_dtype is CpuDtype.INT8 and (backend is Backend.EAGER or not has_openvino()):
        msg = (
            "CODEFEND_CPU_DTYPE=int8 needs OpenVINO: pip install 'codefend[openvino]' with "
            "CODEFEND_BACKEND=openvino, or set float32"
        )
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
    if not _shows_accelerator(device_directory) or not has_torch():
        return False
    import torch

    return torch.cuda.is_available()


def _shows_accelerator(device_directory: Path) -> bool:
    return any(True for pattern in _ACCELERATORS for _ in device_directory.glob(pattern))
