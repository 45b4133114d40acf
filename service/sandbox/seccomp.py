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

from codefend.service.sandbox.kernel import call_kernel, numbers_of

__all__ = ["restrict_system_calls"]

_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
# What Python asks of every file that it opens: is it a terminal, and close it on exec.
_IS_TERMINAL, _CLOSE_ON_EXEC = 0x5401, 0x5451
_FILE_COMMANDS = (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC)

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Whatever their arguments are; a call that an architecture does not have is passed over.
_ALLOWED = (
    # Memory
    *("mmap", "mprotect", "munmap", "brk", "mremap", "madvise"),
    # Open files, and what the system says of any
    *("read", "write", "close", "fstat", "lseek", "pread64", "readv", "writev", "dup"),
    *("getdents64", "readlinkat", "newfstatat", "statx", "getcwd"),
    *("stat", "lstat", "access", "readlink"),
    # Waiting and locks
    *("ppoll", "pselect6", "futex", "sched_yield", "nanosleep", "clock_gettime"),
    *("clock_nanosleep", "restart_syscall", "rseq", "set_robust_list", "membarrier"),
    *("poll", "select"),
    # Itself
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "getpid", "getppid"),
    *("gettid", "getuid", "geteuid", "getgid", "getegid", "getrusage", "uname", "sysinfo"),
    *("sched_getaffinity", "getrandom", "exit", "exit_group"),
)


def restrict_system_calls() -> None:
    """Installs the filter on all threads of the process; the process may not have new privileges.

    Raises:
        UnknownMachine: The architecture is none of those listed.
        OSError: The kernel refused.
    """
    program = b"".join(_build_program(platform.machine()))
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    call_kernel("seccomp", _SET_MODE_FILTER, _ALL_THREADS, ctypes.c_char_p(header))


def _build_program(machine: str) -> Iterator[bytes]:
    """The filter, instruction by instruction, in classic BPF."""
    numbers = numbers_of(machine)
    # 1. The numbers below are this architecture's: a call made as another's is refused.
    yield _instruction(_LOAD, _ARCHITECTURE_AT)
    yield _instruction(_IF_EQUAL, _ARCHITECTURES[machine], if_true=1)
    yield _instruction(_RETURN, _ERRNO | errno.EPERM)
    # 2. What is allowed whatever its arguments are.
    yield _instruction(_LOAD, _NUMBER_AT)
    for number in (numbers[name] for name in _ALLOWED if name in numbers):
        yield _instruction(_IF_EQUAL, number, if_false=1)
        yield _instruction(_RETURN, _ALLOW)
    # 3. What is allowed for some arguments. Files are only read, and the pixels' memory is opened
    #    to read and write: never to write alone, to create, to truncate or to append.
    unnamed = os.O_TMPFILE & ~os.O_DIRECTORY
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | unnamed
    yield from _allow_unless(numbers["openat"], 2, writing)
    yield from _allow_for(numbers["fcntl"], 1, _FILE_COMMANDS)
    yield from _allow_for(numbers["ioctl"], 1, (_IS_TERMINAL, _CLOSE_ON_EXEC))
    yield from _allow_for(numbers["prlimit64"], 0, (0,))
    yield from _allow_for(numbers["tgkill"], 0, (os.getpid(),))
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
