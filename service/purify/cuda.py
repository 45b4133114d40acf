"""CUDA as `GraphRunner` needs it: graphs in one pool of memory, and copies on their own stream."""

from collections.abc import Callable

import torch
from torch import Tensor

from codefend.service.purify.graph_runner import Captured

__all__ = ["CudaDevice"]

WARM_UPS = 2


class CudaDevice:
    """One NVIDIA GPU; the process's only one from here on."""

    def __init__(self, device: torch.device) -> None:
        """Makes its streams.

        Args:
            device: Such as `cuda:0`.

        Raises:
            RuntimeError: There is no such GPU.
        """
        torch.cuda.set_device(device)
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._captures = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def total_bytes(self) -> int:
        """Of the GPU's memory."""
        return int(torch.cuda.mem_get_info(self._device)[1])

    def pinned(self, num_values: int, dtype: torch.dtype) -> Tensor:
        """Page-locked memory of the host."""
        return torch.zeros(num_values, dtype=dtype, pin_memory=True)

    def warm_up(self, run: Callable[[], object]) -> int:
        """Runs a few times on the stream of captures; returns the bytes that it allocates at most.

        Raises:
            RuntimeError: It fails; lack of memory included.
        """
        self._run_aside(run)  # cuDNN tries its algorithms, some with memory that none needs later
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        for _ in range(WARM_UPS):
            self._run_aside(run)
        return torch.cuda.max_memory_allocated(self._device) - before

    def capture(self, run: Callable[[], object]) -> Captured:
        """Captures it into the pool.

        Raises:
            RuntimeError: It cannot be captured; lack of memory included.
        """
        graph = torch.cuda.CUDAGraph()
        self.release()
        before, _ = torch.cuda.mem_get_info(self._device)
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._captures, capture_error_mode="thread_local"
        ):
            run()
        after, _ = torch.cuda.mem_get_info(self._device)
        return Captured(graph.replay, max(0, before - after))

    def release(self) -> None:
        """Gives memory back that nothing uses."""
        torch.cuda.empty_cache()

    def upload(self, target: Tensor, source: Tensor) -> None:
        """Begins a copy to the GPU, on the stream of copies."""
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)

    def join(self) -> None:
        """Has the computation wait for the uploads."""
        torch.cuda.current_stream(self._device).wait_stream(self._copies)

    def download(self, *copies: tuple[Tensor, Tensor]) -> None:
        """Copies each second to its first as soon as the computation is over; waits for it."""
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies):
            for target, source in copies:
                target.copy_(source, non_blocking=True)
        self._copies.synchronize()

    def _run_aside(self, run: Callable[[], object]) -> None:
        self._captures.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._captures):
            run()
        self._captures.synchronize()
