"""What code that a hostile image brought to run would try; spawned decode processes import it.

Each raises OSError where the system refuses, and returns where it gets through.
"""

import ctypes
import mmap
import os
import resource
import signal
import socket
import threading
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from codefend.service.decode.process import make_decoder
from codefend.service.formats import table

SECRET = "sk-of-the-guard"
_libc = ctypes.CDLL(None, use_errno=True)


def make_plain_handler(_):
    return _try, {}


def make_confined_handler(config):
    """Where no decoder is installed that needs a thread of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "find_spec", lambda _module: None)
        return make_handler_with_threads(config)


def make_handler_with_threads(config):
    decode, facts = make_decoder(config)

    def handle(meta, body, ask):
        return _try(meta, body, ask) if "escape" in meta else decode(meta, body, ask)

    return handle, facts


def _try(meta, _, __):
    # As an attacker would, who has all numbers in mind: whatever is cheap to lift is lifted first.
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        try:
            resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            continue
    try:
        ESCAPES[meta["escape"]](Path(meta["folder"]))
    except (OSError, RuntimeError) as error:
        return {"refused": str(error)}, b""
    return {"refused": None}, b""


def _write(path, flags=os.O_WRONLY | os.O_CREAT):
    file = os.open(path, flags, 0o600)
    os.write(file, b"x")
    os.close(file)


def _write_in_working_directory(_):
    path = Path(f"escaped-{os.getpid()}")
    _write(path)
    path.unlink()


def _write_in_tmp(_):
    path = Path(f"/tmp/escaped-{os.getpid()}")
    _write(path)
    path.unlink()


def _overwrite_by_mapping(folder):
    """A limit on the size of files does not hold this one."""
    file = os.open(folder / "secret", os.O_RDWR)
    with mmap.mmap(file, 0) as memory:
        memory[:1] = memory[:1]
    os.close(file)


def _new_shared_memory(_):
    segment = shared_memory.SharedMemory(create=True, size=1)
    segment.close()
    segment.unlink()


def _fork(_):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _execute(_):
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)


def _start_thread(_):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _find_key(texts):
    if not any(SECRET.encode() in text for text in texts):
        raise OSError("no key found")


def _key_in_environment(_):
    shown = Path("/proc/self/environ")
    own = [os.environb.get(b"GUARD_TEST_KEY", b"")]
    _find_key(own + ([shown.read_bytes()] if os.access(shown, os.R_OK) else []))


def _key_in_first_environment(_):
    """Where the kernel put it when the process began, whatever became of it in Python."""
    fields = _stat_at_start.rpartition(") ")[2].split()
    start, end = int(fields[47]), int(fields[48])
    _find_key([ctypes.string_at(start, end - start)])


def _key_of_parent(_):
    _find_key([Path(f"/proc/{os.getppid()}/environ").read_bytes()])


def _call(name, *arguments):
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _read_memory_of_parent(_):
    _call("process_vm_readv", os.getppid(), None, 0, None, 0, 0)


_stat_at_start = Path("/proc/self/stat").read_text()
PTRACE_ATTACH = 16

ESCAPES = {
    "internet socket": lambda _: socket.socket().close(),
    "datagram socket": lambda _: socket.socket(type=socket.SOCK_DGRAM).close(),
    "unix socket": lambda _: socket.socket(socket.AF_UNIX).close(),
    "connection": lambda _: socket.create_connection(("127.0.0.1", 9), 1),
    "file in the working directory": _write_in_working_directory,
    "file in /tmp": _write_in_tmp,
    "file in a folder": lambda folder: _write(folder / "new"),
    "append": lambda folder: _write(folder / "secret", os.O_WRONLY | os.O_APPEND),
    "overwrite": lambda folder: _write(folder / "victim", os.O_RDWR),
    "overwrite by mapping": _overwrite_by_mapping,
    "truncate": lambda folder: os.truncate(folder / "victim", 0),
    "rename": lambda folder: (folder / "victim").rename(folder / "victim"),
    "remove": lambda folder: (folder / "to-remove").unlink(),
    "new folder": lambda folder: (folder / "made").mkdir(),
    "mode": lambda folder: (folder / "victim").chmod(0o600),
    "new shared memory": _new_shared_memory,
    "list others' pixels": lambda _: os.listdir("/dev/shm"),
    "read a file": lambda folder: (folder / "secret").read_bytes(),
    "read /etc/passwd": lambda _: Path("/etc/passwd").read_bytes(),
    "fork": _fork,
    "execute": _execute,
    "thread": _start_thread,
    "memory file": lambda _: os.close(os.memfd_create("x")),
    "key in the environment": _key_in_environment,
    "key in the first environment": _key_in_first_environment,
    "signal the parent": lambda _: os.kill(os.getppid(), 0),
    "limit the parent": lambda _: resource.prlimit(os.getppid(), resource.RLIMIT_CORE),
    "pin the processor": lambda _: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "group": lambda _: os.setpgid(0, os.getpgid(0)),
    # Without confinement too these may fail, by the machine's own policy.
    "key of the parent": _key_of_parent,
    "trace the parent": lambda _: _call("ptrace", PTRACE_ATTACH, os.getppid(), 0, 0),
    "read the parent's memory": _read_memory_of_parent,
    "become another user": lambda _: os.setuid(12345),
    "kill the parent": lambda _: os.kill(os.getppid(), signal.SIGKILL),
    "other root": lambda _: os.chroot("/"),
    "new namespace": lambda _: _call("unshare", 0x10000000),
}
UNSURE_OR_HARMFUL = {
    "connection",
    "key of the parent",
    "trace the parent",
    "read the parent's memory",
    "become another user",
    "kill the parent",
    "other root",
    "new namespace",
}
