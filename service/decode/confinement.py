"""What the process that reads strangers' bytes gives up: files, network, processes, secrets.

Several walls, one behind the other: resource limits and the loss of all capabilities hold
everywhere; seccomp and Landlock hold where the kernel has them, and what it lacks is reported.
"""

import ctypes
import os
import resource
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from codefend.service.decode.landlock import restrict_files
from codefend.service.decode.seccomp import restrict_system_calls
from codefend.service.processes.kernel import control_process, set_capabilities

__all__ = ["allow_cpu_time", "confine"]

_NO_NEW_PRIVILEGES = 38
_CAPABILITY_VERSION = 0x20080522
_SPARE_FILES = 16
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


def confine(memory_bytes: int, pixels_directory: Path) -> tuple[str, ...]:
    """Gives up, for good, what decoding does not need.

    The libraries that decode must be loaded before, and there must be no other thread: Landlock
    and capabilities are a thread's own.

    Args:
        memory_bytes: Address space the process may have.
        pixels_directory: The one folder whose files it may overwrite.

    Returns:
        What could not be given up, one sentence each; empty where all walls stand.
    """
    if sys.platform != "linux":
        return ("decode processes are confined on Linux alone",)
    _limit_resources(memory_bytes)
    walls: list[tuple[str, Callable[[], None]]] = [
        ("the environment is not wiped", _forget_environment),
        ("new privileges are not excluded", _exclude_privileges),
        ("files are not restricted by Landlock", partial(_restrict_files, pixels_directory)),
        ("system calls are not restricted by seccomp", restrict_system_calls),
    ]
    return tuple(_missing(walls))


def allow_cpu_time(seconds: int) -> None:
    """Sets the processor time that the process may still spend; beyond it the system kills it.

    Args:
        seconds: Counted from now, whole seconds.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent_s = int(usage.ru_utime + usage.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent_s + seconds + 1, hard))


def _missing(walls: list[tuple[str, Callable[[], None]]]) -> Iterator[str]:
    num_threads = len(os.listdir("/proc/self/task"))
    if num_threads > 1:
        yield f"{num_threads - 1} threads that ran before are not confined by Landlock"
    for without_it, build in walls:
        try:
            build()
        except OSError as error:
            yield f"{without_it} ({error.strerror})"


def _limit_resources(memory_bytes: int) -> None:
    nothing = (0, 0)
    num_files = max(int(name) for name in os.listdir("/proc/self/fd")) + _SPARE_FILES
    # Shared memory is mapped, not written as a file: a limit of zero bytes does not touch it.
    resource.setrlimit(resource.RLIMIT_FSIZE, nothing)
    resource.setrlimit(resource.RLIMIT_CORE, nothing)
    # The superuser's processes are not counted; for them seccomp alone forbids new ones.
    resource.setrlimit(resource.RLIMIT_NPROC, nothing)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, nothing)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_files, num_files))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _exclude_privileges() -> None:
    control_process(_NO_NEW_PRIVILEGES, 1)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    set_capabilities(header, struct.pack("=6I", *[0] * 6))


def _restrict_files(pixels_directory: Path) -> None:
    """Leaves Python's own modules, the system's libraries, and the pixels' shared memory."""
    modules = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    rooms = Path(__file__).parents[2]
    places = [*modules, *_SYSTEM_LIBRARIES, *(str(rooms / room) for room in ("service", "models"))]
    restrict_files([Path(path) for path in places], [pixels_directory])


def _forget_environment() -> None:
    """Empties the environment, also where the kernel shows what it was at the start.

    Secrets of any name may stand there, not of this service alone.
    """
    os.environ.clear()
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    # proc(5): env_start and env_end are the fields 50 and 51; the first here is the third.
    start, end = int(fields[47]), int(fields[48])
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
