#!/usr/bin/env python3
"""Starts the container's command with an API key: the configured one, a shared one, or a new one.

Without CODEFEND_API_KEYS a key is read from CODEFEND_API_KEY_FILE, or else made; a made key is
written there, or, without such a file, shown once in the log.
"""

import os
import secrets
import sys
from pathlib import Path

KEYS = "CODEFEND_API_KEYS"
KEY_FILE = "CODEFEND_API_KEY_FILE"


def find_or_make_key(path: Path | None) -> str:
    """Reads the key file; makes a key where there is none.

    Args:
        path: Where the key lies, or is to lie; readable by its owner alone.
    """
    if path is not None and path.exists():
        return path.read_text(encoding="utf-8").strip()
    key = secrets.token_urlsafe(32)
    if path is None:
        sys.stderr.write(f"No {KEYS} is set. The key of this run is {key}\n")
        return key
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(key + "\n")
    sys.stderr.write(f"No {KEYS} is set. A new key was written to {path}\n")
    return key


def main(command: list[str]) -> None:
    """Replaces this process by the command."""
    # The key file is ours alone: the service refuses settings that it does not know.
    file_name = os.environ.pop(KEY_FILE, "")
    if not os.environ.get(KEYS):
        os.environ[KEYS] = find_or_make_key(Path(file_name) if file_name else None)
    os.execvp(command[0], command)  # noqa: S606 - the command is the image's own


if __name__ == "__main__":
    main(sys.argv[1:])
