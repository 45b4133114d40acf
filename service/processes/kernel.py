"""Calls into the Linux kernel that Python has no name for; confinement is made of them."""

import ctypes
import functools
import os
import sys
from typing import Any

__all__ = ["call_kernel", "control_process", "hide_memory", "set_capabilities"]

_PR_SET_DUMPABLE = 4


def call_kernel(number: int, *arguments: Any) -> int:
    """Makes a system call by its number.

    Args:
        number: On the present architecture.
        arguments: Integers, None, or what ctypes makes.

    Raises:
        OSError: The kernel refused, or does not know it.
    """
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
