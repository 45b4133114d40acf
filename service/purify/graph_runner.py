"""Runs a purifier as captured graphs, each of one batch size and one bucket, on static buffers.

A network of many small kernels spends its time on launching them, which a replay does once for all.
Batches are padded to a size that is captured; what is not, runs eagerly.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codefend.service.purify.engine import GraphLimits
from codefend.service.purify.torch_runner import TorchRunner

__all__ = ["Captured", "GraphDevice", "GraphRunner", "GraphShape", "batch_sizes"]

logger = logging.getLogger(__name__)

# What is not captured at the start is when it has been met so often.
MEETINGS_BEFORE_CAPTURE = 2
# So that whoever sends pictures of ever new sizes does not keep the device busy with captures.
MOST_GRAPHS = 64
# What is not captured by then is captured when it is met.
MOST_START_S = 60.0
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Captured:
    """A captured graph.

    Attributes:
        replay: Runs it.
        num_bytes: Of the device's memory that it took.
    """

    replay: Callable[[], object]
    num_bytes: int


class GraphDevice(Protocol):
    """What a runner needs of CUDA: the seam where tests put a host."""

    @property
    def total_bytes(self) -> int:
        """Of the device's memory."""

    def pinned(self, num_values: int, dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device copies from and to by itself."""

    def warm_up(self, run: Callable[[], object]) -> int:
        """Runs a few times on a stream of its own; returns the bytes that it allocates at most."""

    def capture(self, run: Callable[[], object]) -> Captured:
        """Captures it into the memory that all graphs share.

        Raises:
            RuntimeError: It cannot be captured; lack of memory included.
        """

    def release(self) -> None:
        """Gives memory back that nothing uses."""

    def upload(self, target: Tensor, source: Tensor) -> None:
        """Begins a copy to the device, on the copies' own stream."""

    def join(self) -> None:
        """Has the computation wait for the uploads."""

    def download(self, *copies: tuple[Tensor, Tensor]) -> None:
        """Copies each second to its first as soon as the computation is over; waits for it."""


class GraphShape(NamedTuple):
    """A batch that a graph is captured for."""

    num_images: int
    height: int
    width: int

    @property
    def num_pixels(self) -> int:
        """Of all its images."""
        return math.prod(self)


def batch_sizes(capacity: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, ... and `capacity`: a third of a batch is padding at most."""
    powers = [1 << exponent for exponent in range(capacity.bit_length())]
    sizes = {*powers, *(3 * power // 2 for power in powers), capacity}
    return tuple(sorted(size for size in sizes if 0 < size <= capacity))


class _Views(NamedTuple):
    """The static buffers as one shape needs them; of the host what is copied from and to."""

    pixels: Tensor
    noise: Tensor
    purified: Tensor
    host_pixels: Tensor
    host_purified: Tensor


class _StaticBuffers:
    """Memory that all graphs share: one batch runs at a time, and each begins where it does.

    The noise levels are among it, so that one graph serves every strength.
    """

    def __init__(self, eager: TorchRunner, device: GraphDevice, max_pixels: int) -> None:
        self._graph = eager.graph
        purifier = eager.graph.purifier
        channels, factor = purifier.noise_layout
        num_noise = int(purifier.config.num_steps) * channels * -(-max_pixels // factor**2)
        self._pixels = torch.zeros(3 * max_pixels, dtype=torch.uint8, device=eager.device)
        self._purified = torch.zeros_like(self._pixels)
        self._noise = torch.zeros(num_noise, dtype=purifier.dtype, device=eager.device)
        self._host_pixels = device.pinned(3 * max_pixels, torch.uint8)
        self._host_purified = device.pinned(3 * max_pixels, torch.uint8)
        self.levels = eager.levels_on_device(eager.graph.own_levels).clone()
        self.total = torch.zeros(1, device=eager.device)
        self.host_total = device.pinned(1, torch.float32)

    def views(self, shape: GraphShape) -> _Views:
        """Their parts for one shape."""
        noise = self._graph.noise_shape(*shape)

        def images(buffer: Tensor) -> Tensor:
            return buffer[: 3 * shape.num_pixels].view(*shape, 3)

        return _Views(
            images(self._pixels),
            self._noise[: math.prod(noise)].view(noise),
            images(self._purified),
            images(self._host_pixels),
            images(self._host_purified),
        )


class GraphRunner:
    """Replays captured graphs, and runs eagerly what is not captured."""

    def __init__(self, eager: TorchRunner, device: GraphDevice, limits: GraphLimits) -> None:
        """Captures the shapes of the start, the largest first: the others fit into its memory.

        Args:
            eager: Runs the same network, on the same device.
            device: Captures, and copies.
            limits: Of batches and of memory.
        """
        self._eager = eager
        self._device = device
        self._limits = limits
        self._ceiling_bytes = int(limits.memory_share * device.total_bytes)
        self._buffers = _StaticBuffers(eager, device, limits.max_pixels)
        # None for what runs eagerly for good.
        self._graphs: dict[GraphShape, Captured | None] = {}
        self._meetings: Counter[GraphShape] = Counter()
        self._capture_start_shapes()

    def describe(self) -> dict[str, Any]:
        """What it holds, for logs: graphs, their memory, and how much that may become."""
        return self._eager.describe() | {
            "graphs": len(self._captured),
            "graph_memory_mib": self._held_bytes // MEBIBYTE,
            "graph_memory_ceiling_mib": self._ceiling_bytes // MEBIBYTE,
        }

    def purify(
        self, images: NDArray[np.uint8], seed: int, levels: Sequence[float] | None = None
    ) -> tuple[NDArray[np.uint8], float]:
        """Runs the purifier on one batch, as `Runner` says."""
        levels = tuple(levels or self._eager.graph.own_levels)
        shape = self._shape_of(images)
        captured = None if shape is None else self._find(shape)
        if shape is None or captured is None:
            return self._eager.purify(images, seed, levels)
        self._buffers.levels.copy_(self._eager.levels_on_device(levels))
        return self._replay(captured, shape, images, seed)

    @torch.inference_mode()
    def _replay(
        self, captured: Captured, shape: GraphShape, images: NDArray[np.uint8], seed: int
    ) -> tuple[NDArray[np.uint8], float]:
        views, num_images = self._buffers.views(shape), len(images)
        # Image by image: one is on its way while the next is copied into pinned memory.
        for row, image in enumerate(images):
            views.host_pixels[row].numpy()[:] = image
            self._device.upload(views.pixels[row], views.host_pixels[row])
        views.pixels[num_images:].zero_()
        views.noise.normal_(generator=self._eager.seeded(seed))
        self._device.join()
        captured.replay()
        purified = views.host_purified[:num_images]
        self._device.download(
            (purified, views.purified[:num_images]), (self._buffers.host_total, self._buffers.total)
        )
        # The next batch overwrites the buffer.
        return purified.numpy().copy(), float(self._buffers.host_total)

    def _shape_of(self, images: NDArray[np.uint8]) -> GraphShape | None:
        """The shape that the batch is padded to; None if no graph takes it."""
        num_images, height, width, _ = images.shape
        sizes = self._sizes_of(height, width)
        size = next((size for size in sizes if size >= num_images), None)
        return None if size is None else GraphShape(size, height, width)

    def _sizes_of(self, height: int, width: int) -> tuple[int, ...]:
        multiple = self._eager.graph.purifier.padding_multiple
        if height % multiple or width % multiple:
            return ()
        num_images = self._limits.max_pixels // (height * width)
        return batch_sizes(min(self._limits.max_images, num_images))

    def _find(self, shape: GraphShape) -> Captured | None:
        """Its graph, captured now if it has been met often enough."""
        if shape in self._graphs:
            return self._graphs[shape]
        self._meetings[shape] += 1
        if self._meetings[shape] < MEETINGS_BEFORE_CAPTURE or len(self._graphs) >= MOST_GRAPHS:
            return None
        return self._capture(shape)

    def _capture_start_shapes(self) -> None:
        started_s = time.monotonic()
        shapes = [
            GraphShape(size, side_px, side_px)
            for side_px in self._limits.start_sides_px
            for size in self._sizes_of(side_px, side_px)
        ]
        for shape in sorted(shapes, key=lambda shape: shape.num_pixels, reverse=True):
            if time.monotonic() - started_s < MOST_START_S:
                self._capture(shape)
        logger.info(
            "captured %d of %d shapes in %.1f s",
            len(self._captured),
            len(shapes),
            time.monotonic() - started_s,
            extra={"fields": self.describe()},
        )

    @torch.inference_mode()
    def _capture(self, shape: GraphShape) -> Captured | None:
        views = self._buffers.views(shape)

        def run() -> None:
            purified, total = self._eager.graph(views.pixels, views.noise, self._buffers.levels)
            views.purified.copy_(purified)
            self._buffers.total.copy_(total)

        self._graphs[shape] = None
        try:
            needed_bytes = self._device.warm_up(run)
            if max(needed_bytes, self._held_bytes) <= self._ceiling_bytes:
                self._graphs[shape] = self._device.capture(run)
            else:
                logger.info("%s runs eagerly: its graph would need too much memory", shape)
        except RuntimeError as error:  # of memory, or of something that cannot be captured
            logger.warning("%s runs eagerly: %s", shape, error)
        if self._graphs[shape] is None:
            self._device.release()
        return self._graphs[shape]

    @property
    def _captured(self) -> list[Captured]:
        return [captured for captured in self._graphs.values() if captured is not None]

    @property
    def _held_bytes(self) -> int:
        return sum(captured.num_bytes for captured in self._captured)
