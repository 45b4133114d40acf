"""The filter's program, played instruction by instruction for every architecture it is made for."""

import errno
import fcntl
import os
import platform
import re
import struct
from pathlib import Path

import pytest

from codefend.service.sandbox import layers
from codefend.service.sandbox.kernel import UnknownMachine, numbers_of
from codefend.service.sandbox.layers import restrict_system_calls

ALLOWED, REFUSED = 0x7FFF0000, 0x00050000 | errno.EPERM
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# read, openat, ioctl, fcntl, prlimit64, tgkill, socket, execve, clone, ptrace
NUMBERS = {
    "x86_64": (0, 257, 16, 72, 302, 234, 41, 59, 56, 101),
    "aarch64": (63, 56, 29, 25, 261, 131, 198, 221, 220, 117),
}


def verdict(machine, number, *arguments, architecture=None, starts_threads=False):
    """What the kernel would make of a system call."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=iIQ6Q", number, architecture or ARCHITECTURE[machine], 0, *padded)
    instructions = b"".join(layers._build_program(machine, starts_threads))
    program = list(struct.iter_unpack("HBBI", instructions))
    loaded, where = 0, 0
    while True:
        code, if_true, if_false, value = program[where]
        where += 1
        if code == 0x06:
            return value
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", data, value)
        else:
            holds = loaded == value if code == 0x15 else bool(loaded & value)
            where += if_true if holds else if_false


@pytest.mark.parametrize("machine", ARCHITECTURE)
def test_what_is_allowed_and_what_is_refused(machine):
    read, openat, ioctl, control, prlimit, tgkill, *never = NUMBERS[machine]
    assert verdict(machine, read, 0) == ALLOWED
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY):
        assert verdict(machine, openat, 0, 0, flags) == ALLOWED
    for flags in (os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC, os.O_TMPFILE):
        assert verdict(machine, openat, 0, 0, flags) == REFUSED
    assert verdict(machine, ioctl, 1, 0x5401) == ALLOWED
    assert verdict(machine, ioctl, 1, 0x5412) == REFUSED  # types into the terminal
    assert verdict(machine, control, 1, fcntl.F_GETFL) == ALLOWED
    assert verdict(machine, control, 1, fcntl.F_SETOWN, 1) == REFUSED  # signals another process
    assert verdict(machine, prlimit, 0, 7) == ALLOWED
    assert verdict(machine, prlimit, 1, 7) == REFUSED
    assert verdict(machine, tgkill, os.getpid()) == ALLOWED
    assert verdict(machine, tgkill, 1) == REFUSED
    assert {verdict(machine, number) for number in never} == {REFUSED}


@pytest.mark.parametrize("machine", ARCHITECTURE)
def test_where_threads_may_be_started_processes_may_not(machine):
    *_, clone, trace = NUMBERS[machine]
    thread = 0x3D0F00  # what C's library asks for: the same memory, files, signals and process
    assert verdict(machine, clone, thread, starts_threads=True) == ALLOWED
    for flags in (17, 0x1200011, thread & ~0x10000, thread | 0x10000000, 0):
        assert verdict(machine, clone, flags, starts_threads=True) == REFUSED
    # What it would ask cannot be read: it has to ask by the call above.
    assert verdict(machine, 435, starts_threads=True) == 0x00050000 | errno.ENOSYS
    assert verdict(machine, 435) == REFUSED
    assert verdict(machine, trace, starts_threads=True) == REFUSED


@pytest.mark.parametrize("machine", ARCHITECTURE)
def test_calls_made_as_on_another_architecture_are_refused(machine):
    assert verdict(machine, NUMBERS[machine][0], architecture=0x40000003) == REFUSED
    assert verdict(machine, NUMBERS[machine][0] | 0x40000000) == REFUSED


def test_an_unknown_machine_is_reported(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    with pytest.raises(UnknownMachine, match="abacus"):
        restrict_system_calls()


def test_every_call_that_is_allowed_has_a_number():
    known = {name for machine in ARCHITECTURE for name in numbers_of(machine)}
    assert set(layers._ALLOWED) <= known


@pytest.mark.parametrize(
    ("machine", "header", "pattern"),
    [
        ("x86_64", "x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+) (\d+)"),
        ("aarch64", "asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+) (\d+)"),
    ],
)
def test_the_numbers_are_the_kernels(machine, header, pattern):
    file = Path("/usr/include") / header
    if not file.is_file():
        pytest.skip("needs the kernel's headers")
    numbers = dict(re.findall(pattern, file.read_text()))
    numbers.setdefault("newfstatat", numbers.get("fstatat"))
    ours = {name: str(number) for name, number in numbers_of(machine).items()}
    assert ours == {name: numbers.get(name) for name in ours}
