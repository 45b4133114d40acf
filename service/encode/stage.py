"""The service's side of the encode stage: asks an encode process for a picture in a format."""

from collections.abc import Callable

from codefend.models.codec import ImageFormat
from codefend.service.encode.process import make_encoder
from codefend.service.errors import Unavailable
from codefend.service.processes.child import Child, ChildDied
from codefend.service.processes.pixels import Picture
from codefend.service.processes.pool import ChildPool, PoolJob
from codefend.service.processes.supervision import Supervision
from codefend.service.settings import Settings
from codefend.service.stages import Upload

__all__ = ["EncodeStage"]

START_TIMEOUT_S = 60.0
ENCODE_TIMEOUT_S = 30.0


class EncodeStage:
    """A pool of processes that see only pixels."""

    def __init__(
        self,
        settings: Settings,
        on_restart: Callable[[], None],
        is_shared: Callable[[], bool],
    ) -> None:
        """Takes the number of processes.

        Args:
            settings: It.
            on_restart: Called whenever a process is replaced.
            is_shared: Says whether there is more than one caller who could come.
        """
        self._pool = ChildPool(
            lambda index: Child(f"encode-{index}", make_encoder, None),
            settings.encode_workers,
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
        self, upload: Upload, picture: Picture, image_format: ImageFormat, caller: str
    ) -> bytes:
        """Encodes one of the two pictures of an upload.

        Raises:
            Unavailable: No encode process could do it.
        """
        meta = {
            "pixels": upload.pixels.name,
            "picture": int(picture),
            "height": upload.height,
            "width": upload.width,
            "format": image_format.value,
        }
        cost = upload.height * upload.width
        try:
            answer = await self._pool.run(PoolJob(meta, b"", ENCODE_TIMEOUT_S, caller, cost))
            return answer[1]
        except ChildDied as error:
            raise Unavailable from error
