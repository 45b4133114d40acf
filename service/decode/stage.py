"""The service's side of the decode stage: leases memory and asks a decode process to fill it."""

import logging
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from models.prompts.templates import Template
from service.decode.chat import Chat, ChatLimits, open_chat
from service.decode.limits import picture_limits
from service.decode.process import DecodeConfig, make_decoder
from service.decode.refusals import refusal_from_report
from service.errors import ImageTooLarge, InvalidBody, InvalidImage, Unavailable
from service.processes.child import ChildDied, ChildTimeout
from service.processes.messages import Message
from service.processes.pixels import PixelLease, lease_pixels
from service.processes.pool import ChildPool
from service.processes.single_threaded import SingleThreadedChild
from service.settings import Settings

__all__ = ["DecodeStage", "Upload"]

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
# Read in a third of a millisecond, or four if it is meant to hurt: the way to another process and
# back, behind images that are being decoded, would take longer.
SMALL_CHAT_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Upload:
    """A decoded request.

    Attributes:
        pixels: In shared memory.
        height: Rows.
        width: Columns.
        sha256: Of the image's file, in hex.
        fields: What came beside the image.
        facts: What the audit may say of it; later stages add to it.
    """

    pixels: PixelLease
    height: int
    width: int
    sha256: str
    fields: dict[str, Any]
    facts: dict[str, Any]


class DecodeStage:
    """A pool of confined processes."""

    def __init__(self, settings: Settings, on_restart: Callable[[], None]) -> None:
        self._max_pixels = settings.max_pixels
        self._timeout_s = settings.decode_timeout_s
        config = DecodeConfig(
            picture_limits(settings),
            settings.decode_memory_bytes,
            settings.decode_cpu_s,
        )
        self._pool = ChildPool(
            lambda index: SingleThreadedChild(f"decode-{index}", make_decoder, config),
            settings.decode_workers,
            START_TIMEOUT_S,
            on_restart,
        )

    async def start(self) -> None:
        """Starts the processes, and says in the log which walls they lack."""
        for walls_missing in {tuple(facts["unconfined"]) for facts in await self._pool.start()}:
            for wall in walls_missing:
                logger.warning("decode processes are confined less: %s", wall)

    async def stop(self) -> None:
        """Ends the processes."""
        await self._pool.stop()

    async def decode(self, content_type: str, body: bytes) -> Upload:
        """Decodes one request body; the caller releases the upload's pixels.

        Raises:
            RequestRefused: The body or the image is at fault.
            Unavailable: There is no memory for it now.
        """
        pixels = self._lease()
        try:
            meta = {"content_type": content_type, "pixels": pixels.name}
            answer = await self._ask_for_pixels(meta, body)
            height, width = int(answer["height"]), int(answer["width"])
            # The sizes steer reads of shared memory: a process gone bad may not choose them.
            if not 0 < height * width <= self._max_pixels:
                raise InvalidImage(param="image")
            sha256 = answer["sha256"]
            facts = {"sha256": sha256, "format": answer["format"], "width": width, "height": height}
            return Upload(pixels, height, width, sha256, dict(answer["fields"]), facts)
        except BaseException:
            pixels.release()
            raise

    async def unwrap(self, content_type: str, body: bytes) -> tuple[bytes, dict[str, Any]]:
        """Takes a request body apart and decodes no image.

        Returns:
            The image's file, and what came beside it.

        Raises:
            RequestRefused: The body is at fault.
        """
        try:
            answer, file = await self._ask({"content_type": content_type}, body)
        except ChildDied as error:
            raise _too_costly() from error
        return file, dict(answer["fields"])

    async def open_chat(self, body: bytes, limits: ChatLimits, template: Template) -> Chat:
        """Takes a chat apart; its images are then decoded one by one.

        Raises:
            RequestRefused: The body is at fault.
        """
        if len(body) <= SMALL_CHAT_BYTES:
            return open_chat(body, limits, template)
        meta = {"chat": asdict(limits), "template": asdict(template)}
        try:
            return Chat.unpack(*await self._ask(meta, body))
        except ChildDied as error:
            raise _too_costly() from error

    def _lease(self) -> PixelLease:
        try:
            return lease_pixels(self._max_pixels)
        except OSError as error:
            raise Unavailable from error

    async def _ask_for_pixels(self, meta: dict[str, Any], body: bytes) -> dict[str, Any]:
        try:
            return (await self._ask(meta, body))[0]
        except ChildTimeout as error:
            msg = "The image takes too long to decode."
            raise ImageTooLarge(msg, "image") from error
        except ChildDied as error:
            # A bus error means that shared memory is full, which is our lack and not the image's.
            if error.exit_code == -signal.SIGBUS:
                raise Unavailable from error
            msg = "The image could not be decoded within the limits of one image."
            raise InvalidImage(msg, "image") from error

    async def _ask(self, meta: dict[str, Any], body: bytes) -> Message:
        answer, blob = await self._pool.run(meta, body, self._timeout_s)
        refusal = refusal_from_report(answer)
        if refusal is not None:
            raise refusal
        return answer, blob


def _too_costly() -> InvalidBody:
    return InvalidBody("The body takes too much time or memory to read.")
