"""The layers between a process that reads strangers' bytes and everything else of the machine.

One behind the other: resource limits, an empty environment, no privileges, hardly a file
(Landlock) and few system calls (seccomp). The first three hold everywhere; Landlock and seccomp
hold where the kernel has them, and what it lacks is reported.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import resource
import struct
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from codefend.service.sandbox.kernel import (
    call_kernel,
    control_process,
    numbers_of,
    set_capabilities,
)

__all__ = ["allow_cpu_time", "confine", "restrict_system_calls", "single_threaded"]

# Read by numpy's linear algebra when it is loaded, which is before any code of the child's runs.
_NUM_THREADS = "OPENBLAS_NUM_THREADS"
_launching = threading.Lock()

_SPARE_FILES = 16
# Addresses that C's library sets aside for a thread's heap and stack, and hardly uses.
_THREAD_BYTES = 136 << 20
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")

_NO_NEW_PRIVILEGES = 38
_CAPABILITY_VERSION = 0x20080522

# Landlock
_ASK_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
# All rights over files that the n-th version can take away, as the number of its lowest bits.
_NUM_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_SINCE, _TCP_BIND_AND_CONNECT = 4, 0b11
_SCOPES_SINCE, _ABSTRACT_SOCKETS_AND_SIGNALS = 6, 0b11

# seccomp
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
# What Python asks of every file that it opens: is it a terminal, and close it on exec.
_IS_TERMINAL, _CLOSE_ON_EXEC = 0x5401, 0x5451
_FILE_COMMANDS = (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC)

# All that pthread_create asks of clone(2): it shares everything with its process.
_CLONE_THREAD = 0x3D0F00

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


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Processes that start within have the one thread that `confine` asks for.

    They inherit the wish for it; the present process keeps its own.
    """
    with _launching:
        before = os.environ.get(_NUM_THREADS)
        os.environ[_NUM_THREADS] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_NUM_THREADS]
            else:
                os.environ[_NUM_THREADS] = before


def confine(
    memory_bytes: int,
    writable: Path,
    self_test: Callable[[], None] = lambda: None,
    *,
    starts_threads: bool = False,
) -> tuple[str, ...]:
    """Gives up, for good, what the work of the present process does not need.

    There must be no other thread: Landlock and capabilities are a thread's own.

    Args:
        memory_bytes: Address space the process may have.
        writable: The one folder whose files it may overwrite.
        self_test: A small piece of the work. It runs once before, so that every library is loaded,
            and once behind all layers, to prove that the work can be done there. What it raises
            goes through: the process is of no use.
        starts_threads: Whether a library's decoder cannot do without a thread of its own, started
            behind all layers: it inherits every one of them. New processes stay forbidden.

    Returns:
        What could not be given up, one sentence each; empty where all layers hold.
    """
    self_test()
    missing = tuple(_build_layers(memory_bytes, writable, starts_threads))
    self_test()
    return missing


def allow_cpu_time(seconds: int) -> None:
    """Sets the processor time that the process may still spend; beyond it the system kills it.

    Args:
        seconds: Counted from now, whole seconds.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent_s = int(usage.ru_utime + usage.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent_s + seconds + 1, hard))


def _build_layers(memory_bytes: int, writable: Path, starts_threads: bool) -> Iterator[str]:
    """Puts up one layer after another, and says which the kernel lacks."""
    if sys.platform != "linux":
        yield "decode processes are confined on Linux alone"
        return
    _limit_resources(memory_bytes, starts_threads)
    num_threads = len(os.listdir("/proc/self/task"))
    if num_threads > 1:
        yield f"{num_threads - 1} threads that ran before are not confined by Landlock"
    layers: list[tuple[str, Callable[[], None]]] = [
        ("the environment is not wiped", _forget_environment),
        ("new privileges are not excluded", _exclude_privileges),
        ("files are not restricted by Landlock", partial(_restrict_files, writable)),
        (
            "system calls are not restricted by seccomp",
            partial(restrict_system_calls, starts_threads=starts_threads),
        ),
    ]
    for without_it, build in layers:
        try:
            build()
        except OSError as error:
            yield f"{without_it} ({error.strerror})"


def _limit_resources(memory_bytes: int, starts_threads: bool) -> None:
    nothing = (0, 0)
    num_files = max(int(name) for name in os.listdir("/proc/self/fd")) + _SPARE_FILES
    # Shared memory is mapped, not written as a file: a limit of zero bytes does not touch it.
    resource.setrlimit(resource.RLIMIT_FSIZE, nothing)
    resource.setrlimit(resource.RLIMIT_CORE, nothing)
    # Threads count too. The superuser's are not counted; for them seccomp alone forbids processes.
    if not starts_threads:
        resource.setrlimit(resource.RLIMIT_NPROC, nothing)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, nothing)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_files, num_files))
    memory_bytes += _THREAD_BYTES if starts_threads else 0
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


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


def _exclude_privileges() -> None:
    control_process(_NO_NEW_PRIVILEGES, 1)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    set_capabilities(header, struct.pack("=6I", *[0] * 6))


def _restrict_files(writable: Path) -> None:
    """Leaves Python's own modules, the system's libraries, and the pixels' shared memory."""
    modules = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    rooms = Path(__file__).parents[2]
    places = [*modules, *_SYSTEM_LIBRARIES, *(str(rooms / room) for room in ("service", "models"))]
    _apply_landlock([Path(path) for path in places], [writable])


def _apply_landlock(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Takes from the present thread every file but these, TCP, and signals to other processes.

    Landlock is in the kernel since 5.13; Documentation/userspace-api/landlock.rst describes it.
    Files that are open already stay open. Paths that do not exist are passed over.

    Args:
        readable: Files, or folders with all that is beneath them.
        writable: Folders whose files may be read and overwritten, but neither made nor listed.

    Raises:
        OSError: The kernel has no Landlock.
    """
    version = call_kernel("landlock_create_ruleset", None, 0, _ASK_VERSION)
    file_rights = (1 << _NUM_FILE_RIGHTS[min(version, max(_NUM_FILE_RIGHTS))]) - 1
    attributes = struct.pack(
        "QQQ",
        file_rights,
        _TCP_BIND_AND_CONNECT if version >= _TCP_SINCE else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SCOPES_SINCE else 0,
    )
    # An older kernel takes a longer structure as long as the end of it is zero.
    pointer = ctypes.c_char_p(attributes)
    ruleset = call_kernel("landlock_create_ruleset", pointer, len(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
        call_kernel("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not path.is_dir():
            rights &= ~_READ_DIR
        rule = ctypes.c_char_p(struct.pack("=Qi", rights, place))
        call_kernel("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(place)


def restrict_system_calls(*, starts_threads: bool = False) -> None:
    """Allows the few system calls that the work needs on all threads of the process, and no other.

    What is not allowed fails with EPERM, as if the kernel had no such right to give; nothing is
    killed. The process may not have new privileges, or the kernel takes no filter from it.

    Args:
        starts_threads: Allows what makes another thread of this process, and no process.

    Raises:
        UnknownMachine: The architecture is none of those listed.
        OSError: The kernel refused.
    """
    program = b"".join(_build_program(platform.machine(), starts_threads))
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    call_kernel("seccomp", _SET_MODE_FILTER, _ALL_THREADS, ctypes.c_char_p(header))


def _build_program(machine: str, starts_threads: bool = False) -> Iterator[bytes]:
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
    if starts_threads:
        # Its arguments cannot be read here: C's library then makes a thread by the older call.
        yield _instruction(_IF_EQUAL, numbers["clone3"], if_false=1)
        yield _instruction(_RETURN, _ERRNO | errno.ENOSYS)
        yield from _allow_for(numbers["clone"], 0, (_CLONE_THREAD,))
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
