"""Landlock (kernel 5.13 and later): which files a process may open, and whom it may reach.

The kernel's own description is Documentation/userspace-api/landlock.rst.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from codefend.service.processes.kernel import call_kernel

__all__ = ["restrict_files"]

# These numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
# All rights over files that the n-th version can take away, as the number of its lowest bits.
_NUM_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_SINCE, _TCP_BIND_AND_CONNECT = 4, 0b11
_SCOPES_SINCE, _ABSTRACT_SOCKETS_AND_SIGNALS = 6, 0b11


def restrict_files(readable: Iterable[Path], fillable: Iterable[Path]) -> None:
    """Takes from the present thread every file but these, TCP, and signals to other processes.

    Files that are open already stay open. Paths that do not exist are passed over.

    Args:
        readable: Files, or folders with all that is beneath them.
        fillable: Folders whose files may be read and overwritten, but neither made nor listed.

    Raises:
        OSError: The kernel has no Landlock.
    """
    version = call_kernel(_CREATE_RULESET, None, 0, _ASK_VERSION)
    file_rights = (1 << _NUM_FILE_RIGHTS[min(version, max(_NUM_FILE_RIGHTS))]) - 1
    attributes = struct.pack(
        "QQQ",
        file_rights,
        _TCP_BIND_AND_CONNECT if version >= _TCP_SINCE else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SCOPES_SINCE else 0,
    )
    # An older kernel takes a longer structure as long as the end of it is zero.
    ruleset = call_kernel(_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in fillable:
            _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
        call_kernel(_RESTRICT_SELF, ruleset, 0)
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
        rule = struct.pack("=Qi", rights, place)
        call_kernel(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(place)
