"""The engine that runs a purifier eagerly, with torch; imported by workers, never by the service.

fp16 on CUDA, fp32 on a CPU, channels last on both.
"""

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar
from numpy.typing import NDArray

from codefend.models.detector.network import DetectorGraph, SuspicionDetector
from codefend.models.purifier.graph import PurifierGraph
from codefend.models.purifier.loading import load_purifier
from codefend.service.purify.engine import (
    CalibratedDetector,
    DeviceOutOfMemory,
    EngineOptions,
    NetworkEngine,
)
from codefend.service.stages import EngineFacts

__all__ = ["TorchRunner", "load_engine"]

# Torch takes so many of a seed's bits.
SEED_MASK = (1 << 63) - 1


class TorchRunner:
    """Runs a purifier eagerly on one device."""

    def __init__(self, graph: PurifierGraph, device: torch.device) -> None:
        """Moves the network to its device.

        Args:
            graph: Of a purifier of any kind and floating point type.
            device: Where it runs.
        """
        self._device = device
        self._graph = graph.to(device)
        self._graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._generator = torch.Generator(device)

    def purify(self, images: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.uint8], float]:
        """Runs the purifier on one batch, as `Runner` says."""
        try:
            return self._purify(images, seed)
        except torch.OutOfMemoryError as error:
            reason = str(error)
        # Out here the error is gone, and with it the frames that held the batch: only now can what
        # it took be given back.
        torch.cuda.empty_cache()
        raise DeviceOutOfMemory(reason)

    @torch.inference_mode()
    def _purify(self, images: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.uint8], float]:
        self._generator.manual_seed(seed & SEED_MASK)
        pixels = torch.tensor(images, device=self._device)
        num_images, height, width, _ = images.shape
        noise = self._graph.draw_noise(num_images, height, width, self._generator)
        purified, total = self._graph(pixels, noise)
        return purified.cpu().numpy(), float(total)


def load_engine(options: EngineOptions) -> NetworkEngine:
    """Loads the pipeline, its adapters fused, and the detector that the options name.

    Raises:
        OSError: There is no such pipeline.
        ValueError: It is of no known kind, its adapters do not fit, or the detector is not
            calibrated.
        RuntimeError: There is no such device.
    """
    if options.cpu_threads is not None:
        torch.set_num_threads(options.cpu_threads)
    # Convolution shapes repeat: let cuDNN choose its algorithms once per bucket.
    torch.backends.cudnn.benchmark = True
    # Workers have no terminal: a progress bar would only litter the log.
    disable_progress_bar()
    device = _device(options)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    graph = PurifierGraph(load_purifier(options.purifier, options.adapters, dtype=dtype))
    return NetworkEngine(
        TorchRunner(graph, device),
        EngineFacts(**graph.describe(), device=str(device), backend="eager"),
        None if options.detector is None else _load_detector(options.detector, device),
    )


def _load_detector(source: str, device: torch.device) -> CalibratedDetector:
    # Single precision everywhere: it is small, and thresholds are where halves would differ.
    detector = SuspicionDetector.from_pretrained(source, torch_dtype=torch.float32)
    graph = DetectorGraph(detector).to(device)

    @torch.inference_mode()
    def score(upload: NDArray[np.uint8], purified: NDArray[np.uint8]) -> NDArray[np.floating]:
        pair = (torch.tensor(pixels[np.newaxis], device=device) for pixels in (upload, purified))
        scores: NDArray[np.floating] = graph(*pair).cpu().numpy()
        return scores

    return CalibratedDetector(score, detector.config.clean_quantiles)


def _device(options: EngineOptions) -> torch.device:
    if options.device != "auto":
        return torch.device(options.device)
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
