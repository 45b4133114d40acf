"""Encodes one of the two pictures of an upload, in a process that sees only pixels."""

from collections.abc import Callable
from typing import Any

from codefend.models.codec import ImageFormat, ascii_url, encode_image
from codefend.service.errors import Unavailable
from codefend.service.processes.child import Ask, Child, ChildDied, Handler, Message
from codefend.service.processes.pixels import Picture, read_pixels
from codefend.service.processes.pool import ChildPool, PoolJob
from codefend.service.processes.supervision import Supervision
from codefend.service.stages import DecodedImage

__all__ = ["EncodeStage", "make_encoder"]

START_TIMEOUT_S = 60.0
ENCODE_TIMEOUT_S = 30.0


class EncodeStage:
    """The service's side: a pool of processes."""

    def __init__(
        self,
        num_processes: int,
        jpeg_quality: int,
        on_restart: Callable[[], None],
        is_shared: Callable[[], bool],
    ) -> None:
        """Takes the number of processes.

        Args:
            num_processes: It.
            jpeg_quality: Of JPEGs, 1 to 100.
            on_restart: Called whenever a process is replaced.
            is_shared: Says whether there is more than one caller who could come.
        """
        self._pool = ChildPool(
            lambda index: Child(f"encode-{index}", make_encoder, jpeg_quality),
            num_processes,
            START_TIMEOUT_S,
            on_restart,
            is_shared,
        )

    @property
    def pids(self) -> list[int]:
        """Process ids of its living processes."""
        return self._pool.pids

    async def start(self, supervision: Supervision) -> None:
        """Starts the processes."""
        await self._pool.start(supervision)

    async def stop(self) -> None:
        """Ends the processes."""
        await self._pool.stop()

    async def encode(
        self,
        image: DecodedImage,
        picture: Picture,
        image_format: ImageFormat,
        caller: str,
        *,
        in_url: bool,
    ) -> bytes:
        """Encodes one of the two pictures of an image.

        Args:
            image: Whose pixels.
            picture: Which of the two.
            image_format: Of the file.
            caller: Whose it is.
            in_url: Whether the file comes in a `data:` URL: it is wrapped where it is written.

        Raises:
            Unavailable: No encode process could do it.
        """
        meta = {
            "pixels": image.admitted.pixels.name,
            "picture": int(picture),
            "height": image.height,
            "width": image.width,
            "format": image_format.value,
            "in_url": in_url,
        }
        cost = image.height * image.width
        try:
            answer = await self._pool.run(PoolJob(meta, b"", ENCODE_TIMEOUT_S, caller, cost))
            return answer[1]
        except ChildDied as error:
            raise Unavailable from error


def make_encoder(jpeg_quality: int) -> tuple[Handler, dict[str, Any]]:
    """Returns the message handler of an encode process: pixels in, an encoded picture out."""

    def encode(meta: dict[str, Any], _: bytes, __: Ask) -> Message:
        try:
            picture = Picture(meta["picture"])
            pixels = read_pixels(meta["pixels"], picture, meta["height"], meta["width"])
        except FileNotFoundError:
            # The client left, and its memory was freed: nobody reads this.
            return {}, b""
        image_format = ImageFormat(meta["format"])
        encoded = encode_image(pixels, image_format, jpeg_quality)
        return {}, ascii_url(encoded, image_format.media_type) if meta["in_url"] else encoded

    return encode, {}
