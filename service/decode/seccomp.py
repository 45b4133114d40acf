"""A seccomp filter: the few system calls that decoding needs are allowed, and no other.

What is not allowed fails with EPERM, as if the kernel had no such right to give; nothing is killed.
"""

import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Iterator

from codefend.service.processes.kernel import call_kernel

__all__ = ["UnknownMachine", "restrict_system_calls"]

_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
# What Python asks of every file that it opens: is it a terminal, and close it on exec.
_IS_TERMINAL, _CLOSE_ON_EXEC = 0x5401, 0x5451
_FILE_COMMANDS = (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC)

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
# fmt: off
_ALLOWED = {
    # Memory: mmap mprotect munmap brk mremap madvise
    # Open files: read write close fstat lseek pread64 readv writev dup getdents64 readlinkat
    #   newfstatat statx getcwd, and on x86_64 their older forms stat lstat access readlink
    # Waiting and locks: ppoll pselect6 futex sched_yield nanosleep clock_gettime clock_nanosleep
    #   restart_syscall rseq set_robust_list membarrier, and on x86_64 poll select
    # Itself: rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack getpid getppid gettid getuid
    #   geteuid getgid getegid getrusage uname sysinfo sched_getaffinity getrandom exit exit_group
    "x86_64": (
        9, 10, 11, 12, 25, 28,
        0, 1, 3, 5, 8, 17, 19, 20, 32, 217, 267, 262, 332, 79, 4, 6, 21, 89,
        271, 270, 202, 24, 35, 228, 230, 219, 334, 273, 324, 7, 23,
        13, 14, 15, 131, 39, 110, 186, 102, 107, 104, 108, 98, 63, 99, 204, 318, 60, 231,
    ),
    "aarch64": (
        222, 226, 215, 214, 216, 233,
        63, 64, 57, 80, 62, 67, 65, 66, 23, 61, 78, 79, 291, 17,
        73, 72, 98, 124, 101, 113, 115, 128, 293, 99, 283,
        134, 135, 139, 132, 172, 173, 178, 174, 175, 176, 177, 165, 160, 179, 123, 278, 93, 94,
    ),
}
# fmt: on
_OPENAT = {"x86_64": 257, "aarch64": 56}
_FCNTL = {"x86_64": 72, "aarch64": 25}
_IOCTL = {"x86_64": 16, "aarch64": 29}
_PRLIMIT64 = {"x86_64": 302, "aarch64": 261}
_TGKILL = {"x86_64": 234, "aarch64": 131}


class UnknownMachine(OSError):
    """The system calls of this architecture are not listed here."""


def restrict_system_calls() -> None:
    """Installs the filter on all threads of the process; the process may not have new privileges.

    Raises:
        UnknownMachine: The architecture is none of those listed.
        OSError: The kernel refused.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise UnknownMachine(errno.ENOSYS, f"no list of system calls for {machine}")
    program = b"".join(_build_program(machine))
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    call_kernel(_SECCOMP[machine], _SET_MODE_FILTER, _ALL_THREADS, ctypes.c_char_p(header))


def _build_program(machine: str) -> Iterator[bytes]:
    """The filter, instruction by instruction, in classic BPF."""
    # 1. The numbers below are this architecture's: a call made as another's is refused.
    yield _instruction(_LOAD, _ARCHITECTURE_AT)
    yield _instruction(_IF_EQUAL, _ARCHITECTURES[machine], if_true=1)
    yield _instruction(_RETURN, _ERRNO | errno.EPERM)
    # 2. What is allowed whatever its arguments are.
    yield _instruction(_LOAD, _NUMBER_AT)
    for number in _ALLOWED[machine]:
        yield _instruction(_IF_EQUAL, number, if_false=1)
        yield _instruction(_RETURN, _ALLOW)
    # 3. What is allowed for some arguments. Files are only read, and the pixels' memory is opened
    #    to read and write: never to write alone, to create, to truncate or to append.
    unnamed = os.O_TMPFILE & ~os.O_DIRECTORY
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | unnamed
    yield from _allow_unless(_OPENAT[machine], 2, writing)
    yield from _allow_for(_FCNTL[machine], 1, _FILE_COMMANDS)
    yield from _allow_for(_IOCTL[machine], 1, (_IS_TERMINAL, _CLOSE_ON_EXEC))
    yield from _allow_for(_PRLIMIT64[machine], 0, (0,))
    yield from _allow_for(_TGKILL[machine], 0, (os.getpid(),))
    # 4. Nothing else; a number with x86_64's bit for 32-bit pointers was equal to none above.
    yield _instruction(_RETURN, _ERRNO | errno.EPERM)


def _allow_for(number: int, argument: int, values: tuple[int, ...]) -> Iterator[bytes]:
    """Allows a call if an argument's lower half is one of the values, and refuses it otherwise."""
    yield _instruction(_IF_EQUAL, number, if_false=2 + 2 * len(values))
    yield _instruction(_LOAD, _ARGUMENTS_AT + 8 * argument)
    for value in values:
        yield _instruction(_IF_EQUAL, value, if_false=1)
        yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_RETURN, _ERRNO | errno.EPERM)


def _allow_unless(number: int, argument: int, bits: int) -> Iterator[bytes]:
    """Allows a call if an argument has none of the bits, and refuses it otherwise."""
    yield _instruction(_IF_EQUAL, number, if_false=4)
    yield _instruction(_LOAD, _ARGUMENTS_AT + 8 * argument)
    yield _instruction(_IF_ANY_BIT, bits, if_true=1)
    yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_RETURN, _ERRNO | errno.EPERM)


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
