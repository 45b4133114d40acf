"""The service's side of the decode stage: decode processes are asked, and fill leased memory."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from codefend.service.decode.chat import Chat, ChatImage, ChatLimits, open_chat
from codefend.service.decode.picture import PictureLimits
from codefend.service.decode.process import DecodeConfig, make_decoder
from codefend.service.errors import (
    ClientLeft,
    CodefendError,
    ImageTooLarge,
    InvalidBody,
    InvalidImage,
    RequestRefused,
    Unavailable,
)
from codefend.service.processes.child import Child, ChildDied, ChildTimeout, Message
from codefend.service.processes.pool import ChildPool, PoolJob
from codefend.service.processes.supervision import Supervision
from codefend.service.protocols.base import Protocol
from codefend.service.protocols.fields import FieldRules
from codefend.service.protocols.prompting import Placing
from codefend.service.settings import Settings
from codefend.service.stages import Admit, Admitted, DecodedImage, PictureHeader

__all__ = ["DecodeStage", "naming_place", "refusal_from_report"]

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
# Read in a third of a millisecond, or four if it is meant to hurt: the way to another process and
# back, behind images that are being decoded, would take longer.
SMALL_CHAT_BYTES = 1 << 14


class DecodeStage:
    """A pool of confined processes."""

    def __init__(
        self,
        settings: Settings,
        pixels_directory: str,
        on_restart: Callable[[], None],
        is_shared: Callable[[], bool],
    ) -> None:
        """Takes what its processes are told.

        Args:
            settings: Their limits and their number.
            pixels_directory: Where all leases are.
            on_restart: Called whenever a process is replaced.
            is_shared: Says whether there is more than one caller who could come.
        """
        self._max_pixels = settings.max_pixels
        self._timeout_s = settings.decode_timeout_s
        config = DecodeConfig(
            PictureLimits.of(settings),
            settings.decode_memory_bytes,
            settings.decode_cpu_s,
            pixels_directory,
        )
        self._pool = ChildPool(
            lambda index: Child(f"decode-{index}", make_decoder, config, is_single_threaded=True),
            settings.decode_workers,
            START_TIMEOUT_S,
            on_restart,
            is_shared,
        )

    @property
    def pids(self) -> list[int]:
        """Process ids of its living processes."""
        return self._pool.pids

    async def start(self, supervision: Supervision) -> None:
        """Starts the processes, and says in the log which layers of the sandbox they lack."""
        facts = await self._pool.start(supervision)
        for missing in dict.fromkeys(layer for fact in facts for layer in fact["unconfined"]):
            logger.warning("decode processes are confined less: %s", missing)

    async def stop(self) -> None:
        """Ends the processes."""
        await self._pool.stop()

    async def decode(
        self, content_type: str, body: bytes, caller: str, admit: Admit
    ) -> DecodedImage:
        """Decodes one request body; the caller releases the upload.

        Args:
            content_type: Of the body.
            body: An image, in any envelope.
            caller: Whose it is.
            admit: Decides on the picture when its size is known.

        Raises:
            RequestRefused: The body or the image is at fault.
            CodefendError: Whatever `admit` raises.
            Unavailable: No process could decode it; it is not known to be at fault.
        """

        async def admit_and_charge(header: PictureHeader) -> Admitted:
            admitted = await admit(header)
            if admitted.size is None:
                self._pool.charge(caller, header.file_pixels)
            return admitted

        admission = _Admission(admit_and_charge, self._max_pixels)
        try:
            meta = {"content_type": content_type, "decodes": True}
            answer, _ = await self._ask(meta, body, caller, admission)
            return admission.upload(answer)
        except BaseException:
            admission.give_up()
            raise

    async def unwrap(
        self, content_type: str, body: bytes, caller: str
    ) -> tuple[bytes, dict[str, Any]]:
        """Takes a request body apart and decodes no image.

        Returns:
            The image's file, and what came beside it.

        Raises:
            RequestRefused: The body is at fault.
            Unavailable: As in `decode`.
        """
        meta = {"content_type": content_type, "decodes": False}
        answer, file = await self._ask(meta, body, caller)
        return file, dict(answer["fields"])

    async def open_chat(
        self,
        body: bytes,
        reading: tuple[Protocol, ChatLimits, Placing | None, FieldRules],
        caller: str,
    ) -> Chat:
        """Takes a chat apart; its images are then decoded one by one.

        Args:
            body: JSON, as received.
            reading: How it is read; see `chat.open_chat`.
            caller: Whose it is.

        Raises:
            RequestRefused: The body is at fault.
            Unavailable: As in `decode`.
        """
        if len(body) <= SMALL_CHAT_BYTES:
            return open_chat(body, *reading)
        protocol, limits, placing, rules = reading
        meta = {
            "path": protocol.path,
            "chat": asdict(limits),
            "placing": None if placing is None else asdict(placing),
            "rules": asdict(rules),
        }
        return Chat.unpack(*await self._ask(meta, body, caller))

    async def open_images(self, body: bytes, max_images: int, caller: str) -> tuple[ChatImage, ...]:
        """Takes a list of images apart; they are then decoded one by one.

        Raises:
            RequestRefused: The body is at fault.
            Unavailable: As in `decode`.
        """
        answer, blob = await self._ask({"max_images": max_images}, body, caller)
        ends = list(itertools.accumulate(answer["lengths"], initial=0))
        files = (blob[start:end] for start, end in itertools.pairwise(ends))
        return tuple(ChatImage(file, f"images[{index}]") for index, file in enumerate(files))

    async def _ask(
        self, meta: dict[str, Any], body: bytes, caller: str, admission: "_Admission | None" = None
    ) -> Message:
        job = PoolJob(meta, body, self._timeout_s, caller, cost=len(body))
        if admission is not None:
            job.reply = admission.reply_from(asyncio.get_running_loop())
        try:
            answer, blob = await self._pool.run(job)
        except ChildTimeout as error:
            raise _took_too_long(admission) from error
        except ChildDied as error:
            if error.exceeded_cpu_limit:
                raise _took_too_long(admission) from error
            raise Unavailable from error
        if admission is not None and admission.refusal is not None:
            raise admission.refusal
        refusal = refusal_from_report(answer)
        if refusal is not None:
            raise refusal
        return answer, blob


class _Admission:
    """Answers a decode process that asks where one picture's pixels shall go."""

    def __init__(self, admit: Admit, max_pixels: int) -> None:
        self._admit = admit
        self._max_pixels = max_pixels
        self._header: PictureHeader | None = None
        self._admitted: Admitted | None = None
        self._is_over = False
        self.refusal: CodefendError | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a picture was found."""
        return self._header is not None

    def reply_from(self, loop: asyncio.AbstractEventLoop) -> Callable[[Any], dict[str, Any]]:
        """The reply, for the thread that talks to the process; it is made in the loop."""

        def reply(question: dict[str, Any]) -> dict[str, Any]:
            header = PictureHeader(**question)
            return asyncio.run_coroutine_threadsafe(self._decide(header), loop).result()

        return reply

    def upload(self, answer: dict[str, Any]) -> DecodedImage:
        """What became of it.

        Raises:
            InvalidImage: The process speaks nonsense.
        """
        admitted, header = self._admitted, self._header
        if admitted is None or header is None:
            raise InvalidImage(param="image")
        height, width = admitted.size or (int(answer["height"]), int(answer["width"]))
        # The sizes steer reads of shared memory: a process gone bad may not choose them.
        if not 0 < height * width == header.height * header.width:
            raise InvalidImage(param="image")
        sha256 = header.sha256
        facts = {
            "sha256": sha256,
            "format": header.format,
            "width": width,
            "height": height,
        }
        fields = dict(answer["fields"])
        return DecodedImage(admitted, height, width, sha256, fields, facts, admitted.release)

    def give_up(self) -> None:
        """Frees what was let in; what comes later is not."""
        self._is_over = True
        if self._admitted is not None:
            self._admitted.release()
            self._admitted = None

    async def _decide(self, header: PictureHeader) -> dict[str, Any]:
        try:
            admitted = await self._let_in(header)
        except CodefendError as error:
            self.refusal = error
            return {"pixels": ""}
        return {"pixels": "" if admitted.size else admitted.pixels.name}

    async def _let_in(self, header: PictureHeader) -> Admitted:
        if self._admitted is not None and header == self._header:
            return self._admitted  # another process tries the same picture again
        if self._is_over or self._header is not None:
            raise ClientLeft
        if not 0 < header.height * header.width <= header.file_pixels <= self._max_pixels:
            raise InvalidImage(param="image")
        self._header = header
        admitted = await self._admit(header)
        if self._is_over:
            admitted.release()
            raise ClientLeft
        self._admitted = admitted
        return admitted


def _took_too_long(admission: _Admission | None) -> CodefendError:
    if admission is not None and admission.has_begun:
        msg = "The image takes too long to decode."
        return ImageTooLarge(msg, "image")
    return InvalidBody("The body takes too much time or memory to read.")


@contextmanager
def naming_place(param: str) -> Iterator[None]:
    """Says in a refusal where the image stood that is at fault.

    Raises:
        RequestRefused: The same that was raised inside, with this place.
    """
    try:
        yield
    except RequestRefused as refusal:
        raise type(refusal)(refusal.public_message, param) from refusal


def refusal_from_report(report: dict[str, Any]) -> RequestRefused | None:
    """Rebuilds a refusal; None if the answer reports none.

    An unknown code, which only a process gone bad could send, becomes a plain refusal.
    """
    if "refused" not in report:
        return None
    for refusal in RequestRefused.__subclasses__():
        if refusal.code == report["refused"]:
            return refusal(report["message"], report["param"])
    return InvalidImage()
