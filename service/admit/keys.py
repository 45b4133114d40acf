"""Who may come in, under which policy: API keys, and for a keyless service, loopback names.

Keys are kept as hashes alone. Those of a file are read anew when it changes: a key is added or
taken away without a restart.
"""

import hmac
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from starlette.datastructures import Headers

from codefend.service.credentials import Key, hash_key, read_keys
from codefend.service.errors import AmbiguousKey, Unauthorized, WrongHost

__all__ = ["KeyRing"]

logger = logging.getLogger(__name__)

ANYONE = Key(sha256="", name="")
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
LOOK_AGAIN_S = 1.0


class KeyRing:
    """The accepted keys; all methods belong to the event loop's thread."""

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

    @property
    def num_callers(self) -> int:
        """How many callers there may be."""
        return len({key.name for key in self._keys()})

    def find(self, headers: Headers) -> Key:
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
        offers = headers.getlist("authorization")
        if len(offers) > 1:
            # Whoever stands in front may have checked the other one.
            raise AmbiguousKey
        scheme, _, offered = (offers[0] if offers else "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized
        digest = hash_key(offered.strip())
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
        logger.info("the keys were read anew: %d", len(self._read))

    def _stamp_of_file(self) -> tuple[int, int, int] | None:
        """What changes when the file does: secrets are often mounted as links that are swapped."""
        try:
            status = self._file.stat() if self._file is not None else None
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_ino, status.st_size) if status else None
