"""The service's side of the encode stage: asks an encode process for a picture in a format."""

from collections.abc import Callable

from models.codec import ImageFormat
from service.decode.stage import Upload
from service.encode.process import make_encoder
from service.errors import Unavailable
from service.processes.child import Child, ChildDied
from service.processes.pixels import Picture
from service.processes.pool import ChildPool
from service.settings import Settings

__all__ = ["EncodeStage"]

START_TIMEOUT_S = 60.0
ENCODE_TIMEOUT_S = 30.0


class EncodeStage:
    """A pool of processes that see only pixels."""

    def __init__(self, settings: Settings, on_restart: Callable[[], None]) -> None:
        self._pool = ChildPool(
            lambda index: Child(f"encode-{index}", make_encoder, None),
            settings.encode_workers,
            START_TIMEOUT_S,
            on_restart,
        )

    async def start(self) -> None:
        """Starts the processes."""
        await self._pool.start()

    async def stop(self) -> None:
        """Ends the processes."""
        await self._pool.stop()

    async def encode(self, upload: Upload, picture: Picture, image_format: ImageFormat) -> bytes:
        """Encodes one of the two pictures of an upload.

        Raises:
            Unavailable: The encode process failed.
        """
        meta: dict[str, object] = {
            "pixels": upload.pixels.name,
            "picture": int(picture),
            "height": upload.height,
            "width": upload.width,
            "format": image_format.value,
        }
        try:
            return (await self._pool.run(meta, b"", ENCODE_TIMEOUT_S))[1]
        except ChildDied as error:
            raise Unavailable from error
