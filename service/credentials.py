"""Who may come in: API keys as they are kept, the file they are read from, and the key ring.

Keys are kept as hashes alone. Those of a file are read anew when it changes: a key is added or
taken away without a restart. A keyless service answers to loopback's names only.
"""

import hashlib
import hmac
import ipaddress
import logging
import re
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codefend.service.errors import AmbiguousKey, Unauthorized, WrongHost
from codefend.service.policy import Quarantined
from codefend.service.policy_change import PolicyChange, read_policy_change

if TYPE_CHECKING:
    from starlette.datastructures import Headers

__all__ = [
    "NO_CHANGE",
    "Key",
    "KeyRing",
    "check_key",
    "check_nothing_is_kept",
    "check_origins",
    "hash_key",
    "is_loopback",
    "read_keys",
]

logger = logging.getLogger(__name__)

_SHOWN_DIGITS = 12
_KEY_FIELDS = ("key", "name", "policy", "sha256")
_POLICY_FIELDS = tuple(name for name in PolicyChange.model_fields if name != "name")
NO_CHANGE = PolicyChange()
# A header with it still fits the head of a request, however many others there are.
MOST_CHARACTERS = 4096
# What the audit calls a policy that has no name in the file.
_RESERVED_NAMES = frozenset({"own", "service"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
LOOK_AGAIN_S = 1.0
_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?"
)
_USUAL_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Key:
    """One accepted key.

    Attributes:
        sha256: Of the key, in hex.
        name: Whose it is, as logs call them; keys of one name are one caller.
        change: How its policy differs from the service's.
    """

    sha256: str
    name: str
    change: PolicyChange = NO_CHANGE

    @classmethod
    def of(cls, sha256: str, name: str = "", change: PolicyChange = NO_CHANGE) -> "Key":
        """A key by its hash, named after it where it has no name."""
        return cls(sha256, name or f"key-{sha256[:_SHOWN_DIGITS]}", change)


ANYONE = Key(sha256="", name="")


def hash_key(key: str) -> str:
    """What is kept of a key. Keys are long and random: no salt, no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


_HASH_OF_NOTHING = hash_key("")


def check_key(key: str, place: str) -> None:
    """Refuses a key that no request could bring.

    Args:
        key: As it is configured.
        place: Where it stands, for the message.

    Raises:
        ValueError: It is empty, has white space, control or non-ASCII characters, or is too long;
            the message does not hold it.
    """
    problem = ""
    if not key:
        problem = "the key is empty"
    elif any(character.isspace() for character in key):
        problem = "the key has white space around or inside it"
    elif not (key.isascii() and key.isprintable()):
        problem = "the key has characters that no HTTP header can hold; use printable ASCII"
    elif len(key) > MOST_CHARACTERS:
        problem = f"the key is over {MOST_CHARACTERS} characters long"
    if problem:
        msg = f"{place}: {problem}: no request could ever match it"
        raise ValueError(msg)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to bind."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses an origin that no browser could send (RFC 6454, section 6.2); `*` stands for all.

    Raises:
        ValueError: There is one.
    """
    for origin in origins:
        found = _ORIGIN.fullmatch(origin)
        has_usual_port = found and found[2] and found[2] == _USUAL_PORTS.get(found[1])
        if origin != "*" and (not found or has_usual_port):
            msg = (
                f"{origin!r} is no origin as browsers write it: scheme, host and port alone, "
                "in lower case and without the usual port, as in https://app.example"
            )
            raise ValueError(msg)
    return origins


def read_keys(file: Path) -> tuple[Key, ...]:
    """Reads a TOML file of ``[[keys]]``, each with a ``name`` and a ``sha256`` or a ``key``.

    A key may set fields of its policy, and name a ``[policies.NAME]`` that sets others.

    Raises:
        ValueError: It cannot be read, holds no key, or one or a policy that is malformed; the
            message holds no key.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror}"
        raise ValueError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{file} is not TOML"
        raise ValueError(msg) from error
    if not set(document) <= {"keys", "policies"}:
        msg = f"{file}: only [[keys]] and [policies.NAME] are known"
        raise ValueError(msg)
    entries = document.get("keys")
    if not isinstance(entries, list) or not entries:
        msg = f"{file} holds no [[keys]]"
        raise ValueError(msg)
    policies = _read_policies(document.get("policies", {}), file)
    keys = tuple(
        _read_key(entry, f"{file}, key {i}", policies) for i, entry in enumerate(entries, start=1)
    )
    _check_callers(keys, file)
    return keys


def check_nothing_is_kept(quarantine: Quarantined, file: Path | None) -> None:
    """Refuses a quarantine that was not given its place and its key.

    Args:
        quarantine: What holds for keys that set nothing else.
        file: Of keys; None for none.

    Raises:
        ValueError: Flagged images are to be kept, of all keys or of some.
    """
    keys = read_keys(file) if file is not None else ()
    if Quarantined.FLAGGED in {quarantine, *(key.change.quarantine for key in keys)}:
        msg = (
            "quarantine = flagged needs CODEFEND_QUARANTINE_DIRECTORY, and "
            "CODEFEND_QUARANTINE_KEY, which codefend quarantine keygen FILE prints"
        )
        raise ValueError(msg)


def _read_policies(tables: object, file: Path) -> dict[str, PolicyChange]:
    if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
        msg = f"{file}: policies are tables, each with a name: [policies.NAME]"
        raise ValueError(msg)
    policies = {}
    for name, table in tables.items():
        place = f"{file}, policy {name}"
        if not name or name in _RESERVED_NAMES:
            msg = f"{place}: call it otherwise; {' and '.join(sorted(_RESERVED_NAMES))} are taken"
            raise ValueError(msg)
        _check_fields(table, _POLICY_FIELDS, place)
        policies[name] = read_policy_change(table | {"name": name}, place)
    return policies


def _read_key(entry: object, place: str, policies: dict[str, PolicyChange]) -> Key:
    if not isinstance(entry, dict):
        msg = f"{place}: it is no table"
        raise ValueError(msg)
    _check_fields(entry, (*_KEY_FIELDS, *_POLICY_FIELDS), place)
    texts = [entry[name] for name in _KEY_FIELDS if name in entry]
    if not all(isinstance(value, str) and value for value in texts):
        msg = f"{place}: {', '.join(_KEY_FIELDS)} must be strings, and not empty"
        raise ValueError(msg)
    if ("key" in entry) == ("sha256" in entry):
        msg = f"{place}: give either key or sha256"
        raise ValueError(msg)
    if "key" in entry:
        check_key(entry["key"], place)
    sha256 = entry["sha256"].lower() if "sha256" in entry else hash_key(entry["key"])
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        msg = f"{place}: sha256 must have 64 hex digits"
        raise ValueError(msg)
    if sha256 == _HASH_OF_NOTHING:
        msg = f"{place}: this is the sha256 of nothing at all: no request could ever match it"
        raise ValueError(msg)
    return Key.of(sha256, entry.get("name", ""), _change_of(entry, place, policies))


def _change_of(
    entry: dict[str, Any], place: str, policies: dict[str, PolicyChange]
) -> PolicyChange:
    """A key's policy: the one that it names, and over it what it sets itself."""
    name = entry.get("policy")
    if name is not None and name not in policies:
        msg = f"{place}: there is no [policies.{name}]"
        raise ValueError(msg)
    named = {} if name is None else policies[name].model_dump(exclude_none=True)
    own = {field: entry[field] for field in _POLICY_FIELDS if field in entry}
    if not own:
        return NO_CHANGE if name is None else policies[name]
    return read_policy_change(named | own | {"name": "own"}, place)


def _check_fields(table: dict[str, Any], known: tuple[str, ...], place: str) -> None:
    if not set(table) <= set(known):
        msg = f"{place}: only {', '.join(sorted(known))} are known"
        raise ValueError(msg)


def _check_callers(keys: tuple[Key, ...], file: Path) -> None:
    """Limits and replays are a caller's: all its keys must be under one policy."""
    changes = {key.name: key.change for key in keys}
    names = {key.sha256: key.name for key in keys}
    for number, key in enumerate(keys, start=1):
        if key.change != changes[key.name]:
            msg = f"{file}, key {number}: keys of one name must have one policy"
            raise ValueError(msg)
        if key.name != names[key.sha256]:
            msg = f"{file}, key {number}: the same key stands under two names"
            raise ValueError(msg)


def _offered_key(headers: "Headers") -> str:
    """The one key of a request, where OpenAI's clients send it, or Anthropic's, or both the same.

    Raises:
        Unauthorized: There is none.
        AmbiguousKey: There are several: whoever stands in front may have checked another one.
    """
    offers = headers.getlist("authorization")
    plain = [key.strip() for key in headers.getlist("x-api-key") if key.strip()]
    if len(offers) > 1 or len(plain) > 1:
        raise AmbiguousKey
    scheme, _, bearer = (offers[0] if offers else "").partition(" ")
    if offers and plain and (scheme.lower() != "bearer" or bearer.strip() != plain[0]):
        raise AmbiguousKey
    if plain:
        return plain[0]
    if scheme.lower() != "bearer":
        raise Unauthorized
    return bearer.strip()


class KeyRing:
    """The accepted keys; all methods belong to the event loop's thread.

    Attributes:
        num_callers: How many callers there may be.
        is_shared: Whether there is more than one.
    """

    def __init__(
        self,
        sha256s: Iterable[str] = (),
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes keys that stay.

        Args:
            sha256s: Their hashes, in hex.
            file: Further ones, for `read_keys`; watched for changes.
            clock: Seconds.

        Raises:
            ValueError: The file is malformed.
        """
        self._fixed = tuple(Key.of(sha256) for sha256 in sha256s)
        self._file = file
        self._clock = clock
        self._looked_at_s = clock()
        self._stamp = self._stamp_of_file()
        self._read = read_keys(file) if file is not None else ()
        self._count()

    def find(self, headers: "Headers") -> Key:
        """Refuses a caller who may not come in, and names one who may.

        Args:
            headers: The request's headers.

        Returns:
            The caller's key: its name tells this caller from others. Where there are no keys, one
            and the same for all.

        Raises:
            Unauthorized: The key is missing or wrong.
            AmbiguousKey: There are several.
            WrongHost: There are no keys, so that only loopback is served, and the request names
                another host.
        """
        keys = self._keys()
        if not keys:
            # A web page can make its own name resolve to 127.0.0.1; it cannot forge the Host
            # header.
            host = headers.get("host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name.lower() not in LOOPBACK_HOSTS:
                raise WrongHost
            return ANYONE
        digest = hash_key(_offered_key(headers))
        # Every key is compared, in constant time: the time taken tells nothing about any of them.
        found = [key for key in keys if hmac.compare_digest(digest, key.sha256)]
        if not found:
            raise Unauthorized
        return found[0]

    def _keys(self) -> tuple[Key, ...]:
        now_s = self._clock()
        if self._file is not None and now_s - self._looked_at_s >= LOOK_AGAIN_S:
            self._looked_at_s = now_s
            self._look_again(self._file)
        # A key that stands in both has the policy and the name that the file gives it.
        return self._read + self._fixed

    def _look_again(self, file: Path) -> None:
        stamp = self._stamp_of_file()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._read = read_keys(file)
        except ValueError as error:
            # Half a file, or none for a moment: nobody is locked out by a slip of an editor.
            logger.error("the keys stay as they were: %s", error)
            return
        self._count()
        logger.info("the keys were read anew: %d", len(self._read))

    def _count(self) -> None:
        self.num_callers = len({key.name for key in self._read + self._fixed})
        self.is_shared = self.num_callers > 1

    def _stamp_of_file(self) -> tuple[int, int, int] | None:
        """What changes when the file does: secrets are often mounted as links that are swapped."""
        try:
            status = self._file.stat() if self._file is not None else None
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_ino, status.st_size) if status else None
