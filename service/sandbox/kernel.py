"""Calls into the Linux kernel that Python has no function for, by their names."""

import ctypes
import errno
import functools
import os
import platform
import sys
from typing import Any

__all__ = [
    "UnknownMachine",
    "call_kernel",
    "control_process",
    "hide_memory",
    "numbers_of",
    "set_capabilities",
]

_PR_SET_DUMPABLE = 4
_MACHINES = ("x86_64", "aarch64")
# On x86_64 as in asm/unistd_64.h, and on aarch64 as in asm-generic/unistd.h. Up to 334 each
# architecture has numbers of its own; what came later has one number everywhere.
# fmt: off
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "access": (21, None), "brk": (12, 214), "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115), "clone": (56, 220), "clone3": (435, 435), "close": (3, 57),
    "dup": (32, 23), "exit": (60, 93),
    "exit_group": (231, 94), "fcntl": (72, 25), "fstat": (5, 80), "futex": (202, 98),
    "getcwd": (79, 17), "getdents64": (217, 61), "getegid": (108, 177), "geteuid": (107, 175),
    "getgid": (104, 176), "getpid": (39, 172), "getppid": (110, 173), "getrandom": (318, 278),
    "getrusage": (98, 165), "gettid": (186, 178), "getuid": (102, 174), "ioctl": (16, 29),
    "lseek": (8, 62), "lstat": (6, None), "madvise": (28, 233), "membarrier": (324, 283),
    "mmap": (9, 222), "mprotect": (10, 226), "mremap": (25, 216), "munmap": (11, 215),
    "nanosleep": (35, 101), "newfstatat": (262, 79), "openat": (257, 56), "poll": (7, None),
    "ppoll": (271, 73), "pread64": (17, 67), "prlimit64": (302, 261), "pselect6": (270, 72),
    "read": (0, 63), "readlink": (89, None), "readlinkat": (267, 78), "readv": (19, 65),
    "restart_syscall": (219, 128), "rseq": (334, 293), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124), "seccomp": (317, 277), "select": (23, None),
    "set_robust_list": (273, 99), "sigaltstack": (131, 132), "stat": (4, None), "statx": (332, 291),
    "sysinfo": (99, 179), "tgkill": (234, 131), "uname": (63, 160), "write": (1, 64),
    "writev": (20, 66),
}
# fmt: on
_NUMBERS_EVERYWHERE = {
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}


class UnknownMachine(OSError):
    """The system calls of this architecture are not listed here."""


def numbers_of(machine: str) -> dict[str, int]:
    """The numbers of the system calls that are named here; without those it does not have.

    Args:
        machine: An architecture, as `platform.machine` names it.

    Raises:
        UnknownMachine: It is none of those listed.
    """
    if machine not in _MACHINES:
        raise UnknownMachine(errno.ENOSYS, f"no list of system calls for {machine}")
    column = _MACHINES.index(machine)
    listed = {name: numbers[column] for name, numbers in _NUMBERS.items()}
    return {name: number for name, number in listed.items() if number is not None}


def call_kernel(name: str, *arguments: Any) -> int:
    """Makes a system call.

    Args:
        name: Of the system call.
        arguments: Integers, None, or what ctypes makes.

    Raises:
        UnknownMachine: Its number is not listed.
        OSError: The kernel refused, or does not know it.
    """
    number = _NUMBERS_EVERYWHERE.get(name) or numbers_of(platform.machine())[name]
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *words))


def control_process(option: int, value: int) -> None:
    """prctl(2) with one argument.

    Raises:
        OSError: The kernel refused.
    """
    zeros = [ctypes.c_ulong(0)] * 3
    _checked(_libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), *zeros))


def hide_memory() -> None:
    """Closes this process's memory and environment to others of the same user; no core dumps."""
    if sys.platform == "linux":
        control_process(_PR_SET_DUMPABLE, 0)


def set_capabilities(header: bytes, data: bytes) -> None:
    """capset(2).

    Raises:
        OSError: The kernel refused.
    """
    _checked(_libc().capset(header, data))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
