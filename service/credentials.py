"""API keys as they are kept, and the file that they are read from."""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Key", "hash_key", "read_keys"]

_SHOWN_DIGITS = 12
_FIELDS = {"name", "sha256", "key"}


@dataclass(frozen=True, slots=True)
class Key:
    """One accepted key.

    Attributes:
        sha256: Of the key, in hex.
        name: Whose it is, as logs call them; keys of one name are one caller.
    """

    sha256: str
    name: str

    @classmethod
    def of(cls, sha256: str, name: str = "") -> "Key":
        """A key by its hash, named after it where it has no name."""
        return cls(sha256, name or f"key-{sha256[:_SHOWN_DIGITS]}")


def hash_key(key: str) -> str:
    """What is kept of a key. Keys are long and random: no salt, no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(file: Path) -> tuple[Key, ...]:
    """Reads a TOML file of ``[[keys]]``, each with a ``name`` and a ``sha256`` or a ``key``.

    Raises:
        ValueError: It cannot be read, holds no key, or one that is malformed; the message holds no
            key.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror}"
        raise ValueError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{file} is not TOML"
        raise ValueError(msg) from error
    entries = document.get("keys")
    if not isinstance(entries, list) or not entries:
        msg = f"{file} holds no [[keys]]"
        raise ValueError(msg)
    return tuple(_read_key(entry, f"{file}, key {i}") for i, entry in enumerate(entries, start=1))


def _read_key(entry: object, place: str) -> Key:
    if not isinstance(entry, dict) or not set(entry) <= _FIELDS:
        msg = f"{place}: only {', '.join(sorted(_FIELDS))} are known"
        raise ValueError(msg)
    if not all(isinstance(value, str) and value for value in entry.values()):
        msg = f"{place}: every value must be a string, and not empty"
        raise ValueError(msg)
    if ("key" in entry) == ("sha256" in entry):
        msg = f"{place}: give either key or sha256"
        raise ValueError(msg)
    sha256 = entry["sha256"].lower() if "sha256" in entry else hash_key(entry["key"])
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        msg = f"{place}: sha256 must have 64 hex digits"
        raise ValueError(msg)
    return Key.of(sha256, entry.get("name", ""))
