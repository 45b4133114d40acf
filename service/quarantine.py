"""Keeps images that look attacked, for whoever investigates; off unless set (CODEFEND_QUARANTINE).

What was sent and what it was purified to, as PNG of the service's own pixels, and what the audit
says are sealed together with a public key: the service cannot open them again, `codefend quarantine
open` can, elsewhere. A file is deleted when its time is over, and nothing is kept beyond the disk
that was given.
"""

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from codefend.service.context import RequestContext
from codefend.service.policy import Quarantined
from codefend.service.processes.pixels import Picture
from codefend.service.processes.supervision import Supervision
from codefend.service.sealing import seal
from codefend.service.stages import DecodedImage

__all__ = ["Quarantine", "Vault"]

logger = logging.getLogger(__name__)

SUFFIX = ".sealed"
# Of images on their way to the disk: each holds its pixels, and its files until they are sealed.
MOST_PENDING = 4
LONGEST_PAUSE_S = 60.0
SHORTEST_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Vault:
    """A directory of sealed files; its methods block, and one thread at a time calls them.

    Attributes:
        directory: Its own: whatever in it ends with `.sealed` is deleted in time.
        public_key: What seals them, in base64.
        max_bytes: Most of all files together.
        lifetime_s: How long a file is kept.
        clock: Seconds since 1970.
    """

    directory: Path
    public_key: str
    max_bytes: int
    lifetime_s: float
    clock: Callable[[], float] = time.time

    def prepare(self) -> None:
        """Makes the directory, for this user alone.

        Raises:
            OSError: It cannot be made.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, files: Mapping[str, bytes]) -> bool:
        """Seals files together and keeps them; returns whether there was room.

        Nothing that is kept is given up for something new: a flood would sweep the traces away.

        Raises:
            OSError: The disk does not take it.
        """
        sealed = seal(files, self.public_key)
        if self.num_bytes() + len(sealed) > self.max_bytes:
            return False
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.clock()))
        target = self.directory / f"{stamp}-{uuid.uuid4().hex}{SUFFIX}"
        unfinished = target.with_suffix(".unfinished")
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as written:
                written.write(sealed)
            now_s = self.clock()
            os.utime(unfinished, (now_s, now_s))
            unfinished.replace(target)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        return True

    def sweep(self) -> float:
        """Deletes what has been kept for its time; returns the seconds until the next is due."""
        now_s, pause_s = self.clock(), min(LONGEST_PAUSE_S, self.lifetime_s)
        for file, status in self._files():
            left_s = status.st_mtime + self.lifetime_s - now_s
            if left_s <= 0:
                file.unlink(missing_ok=True)
            else:
                pause_s = min(pause_s, left_s)
        return max(SHORTEST_PAUSE_S, pause_s)

    def num_bytes(self) -> int:
        """Of all files together."""
        return sum(status.st_size for _, status in self._files())

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for file in sorted(self.directory.iterdir()):
            if file.suffix in {SUFFIX, ".unfinished"}:
                yield file, file.stat()


class Encode(Protocol):
    """One of an image's two pictures as a PNG file, on behalf of a caller."""

    def __call__(self, image: DecodedImage, picture: Picture, *, caller: str) -> Awaitable[bytes]:
        """The file.

        Raises:
            Unavailable: No process could do it.
        """


class Quarantine:
    """Takes flagged images to the vault beside their requests; belongs to the event loop.

    A request never waits for it: how long an answer takes tells nobody what was flagged.
    """

    def __init__(
        self,
        vault: Vault,
        encode: Encode,
        on_outcome: Callable[[str], None],
        on_size: Callable[[int], None],
    ) -> None:
        """Takes where images go, and how.

        Args:
            vault: Where they go.
            encode: One of an image's two pictures as PNG, on behalf of a caller.
            on_outcome: Is told `kept`, `full`, `busy` or `failed` of every image.
            on_size: Is told the bytes of all files whenever that has changed.
        """
        self.vault = vault
        self._encode = encode
        self._on_outcome = on_outcome
        self._on_size = on_size
        self._disk = asyncio.Lock()
        self._pending: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None

    def start(self, supervision: Supervision) -> None:
        """Begins to delete what has been kept for its time.

        Raises:
            OSError: There is no such directory, and none can be made.
        """
        self.vault.prepare()
        self._sweeping = supervision.start("sweeper of the quarantine", self._sweep())

    async def stop(self) -> None:
        """Waits for the images that are on their way."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        if self._pending:
            await asyncio.wait(self._pending)

    def offer(self, context: RequestContext, image: DecodedImage) -> None:
        """Keeps a flagged image, where its caller's policy says so."""
        if context.policy.quarantine is not Quarantined.FLAGGED:
            return
        if len(self._pending) >= MOST_PENDING:
            self._on_outcome("busy")
            return
        event = {
            "request_id": context.request_id,
            "caller": context.caller,
            "endpoint": context.endpoint,
            "policy": context.policy.name,
            "mode": context.policy.mode,
        }
        # The request may be over before: the pixels stay, and count in the service's memory.
        image.admitted.pixels.hold()
        task = asyncio.get_running_loop().create_task(self._keep(context.caller, image, event))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _keep(self, caller: str, image: DecodedImage, event: dict[str, Any]) -> None:
        try:
            original = await self._encode(image, Picture.DECODED, caller=caller)
            purified = await self._encode(image, Picture.PURIFIED, caller=caller)
        except Exception:  # whatever it was: the request itself is not at stake
            logger.exception("a flagged image could not be kept")
            self._on_outcome("failed")
            return
        finally:
            image.admitted.pixels.release()
        files = {
            "original.png": original,
            "purified.png": purified,
            "event.json": json.dumps(event | image.facts).encode(),
        }
        try:
            async with self._disk:
                was_kept = await asyncio.to_thread(self.vault.put, files)
                self._on_size(await asyncio.to_thread(self.vault.num_bytes))
        except OSError as error:
            logger.error("a flagged image could not be kept: %s", error.strerror)
            self._on_outcome("failed")
            return
        self._on_outcome("kept" if was_kept else "full")

    async def _sweep(self) -> None:
        while True:
            pause_s = LONGEST_PAUSE_S
            try:
                async with self._disk:
                    pause_s = await asyncio.to_thread(self.vault.sweep)
                    self._on_size(await asyncio.to_thread(self.vault.num_bytes))
            except OSError as error:
                logger.error("the quarantine could not be swept: %s", error.strerror)
            await asyncio.sleep(pause_s)
