"""The engine that runs a purifier with torch; imported by workers, never by the service.

Half precision and captured graphs on CUDA, single precision on a CPU, channels last on both.
"""

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar
from numpy.typing import NDArray

from codefend.models.detector.network import DetectorGraph, SuspicionDetector
from codefend.models.purifier.graph import PurifierGraph
from codefend.models.purifier.loading import load_purifier
from codefend.service.devices import Backend
from codefend.service.purify.cuda import CudaDevice
from codefend.service.purify.engine import (
    CalibratedDetector,
    EngineOptions,
    NetworkEngine,
)
from codefend.service.purify.graph_runner import GraphRunner
from codefend.service.purify.torch_runner import TorchRunner
from codefend.service.stages import EngineFacts

__all__ = ["load_engine"]


def load_engine(options: EngineOptions) -> NetworkEngine:
    """Loads the pipeline, its adapters fused, and the detector that the options name.

    Raises:
        OSError: There is no such pipeline.
        ValueError: It is of no known kind, its adapters do not fit, or the detector is not
            calibrated.
        RuntimeError: There is no such device, or it captures no graphs and they are asked for.
    """
    if options.cpu_threads is not None:
        torch.set_num_threads(options.cpu_threads)
    # Workers have no terminal: a progress bar would only litter the log.
    disable_progress_bar()
    device = _device(options)
    dtype = getattr(torch, options.gpu_dtype) if device.type == "cuda" else torch.float32
    graph = PurifierGraph(load_purifier(options.purifier, options.adapters, dtype=dtype))
    eager = TorchRunner(graph, device)
    backend = _backend(options, device)
    runner: TorchRunner | GraphRunner = eager
    if backend is Backend.GRAPHS:
        runner = GraphRunner(eager, CudaDevice(device), options.graphs)
    return NetworkEngine(
        runner,
        EngineFacts(
            **graph.describe(),
            device=str(device),
            backend=backend.value,
            details=runner.describe(),
        ),
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
    if options.device == "cuda":
        return torch.device("cuda:0")  # captures want to know which
    if options.device != "auto":
        return torch.device(options.device)
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def _backend(options: EngineOptions, device: torch.device) -> Backend:
    if device.type == "cuda":
        return Backend.EAGER if options.backend is Backend.EAGER else Backend.GRAPHS
    if options.backend is Backend.GRAPHS:
        msg = f"CODEFEND_BACKEND=graphs needs a GPU that torch can use, not {device}: set auto"
        raise RuntimeError(msg)
    return Backend.EAGER
