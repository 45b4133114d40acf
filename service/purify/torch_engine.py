"""The engine that runs a purifier eagerly, with torch; imported by workers, never by the service.

fp16 on CUDA, fp32 on a CPU, channels last on both.
"""

import secrets

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar
from numpy.typing import NDArray

from codefend.models.detector.calibration import suspicions_of
from codefend.models.detector.network import DetectorGraph, SuspicionDetector
from codefend.models.purifier.graph import PurifierGraph
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.purifier import Purifier
from codefend.service.purify.engine import DeviceOutOfMemory, EngineOptions
from codefend.service.stages import EngineFacts

__all__ = ["TorchEngine", "load_engine"]

SEED_BITS = 63


class TorchEngine:
    """Runs one pipeline on one device."""

    def __init__(
        self,
        pipeline: Purifier,
        device: torch.device,
        detector: SuspicionDetector | None = None,
    ) -> None:
        """Moves the pipeline to its device.

        Args:
            pipeline: A purification pipeline of any kind and floating point type.
            device: Where it runs.
            detector: A calibrated detector in single precision; None for no suspicion.
        """
        self._detector = None if detector is None else DetectorGraph(detector).to(device)
        self._clean_quantiles = None if detector is None else detector.config.clean_quantiles
        self._device = device
        self._pipeline = pipeline.to(device)
        self._graph = PurifierGraph(self._pipeline)
        self._graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._generator = torch.Generator(device)

    @property
    def facts(self) -> EngineFacts:
        """What it is."""
        config = self._pipeline.config
        return EngineFacts(
            name=str(config.name),
            version=str(config.version),
            steps=int(config.num_steps),
            noise_level=float(config.noise_level),
            device=str(self._device),
            backend="eager",
        )

    def purify(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Purifies one batch, with fresh noise for every image.

        Args:
            images: (B, H, W, 3) uint8 RGB.

        Returns:
            The same shape and type.

        Raises:
            DeviceOutOfMemory: The device has too little memory for so large a batch.
            ArithmeticError: What came out is no picture.
        """
        try:
            return self._purify(images)
        except torch.OutOfMemoryError as error:
            reason = str(error)
        # Out here the error is gone, and with it the frames that held the batch: only now can what
        # it took be given back.
        torch.cuda.empty_cache()
        raise DeviceOutOfMemory(reason)

    @torch.inference_mode()
    def suspect(self, upload: NDArray[np.uint8], purified: NDArray[np.uint8]) -> float | None:
        """How much an upload looks attacked, by what its purification took out.

        Args:
            upload: (H, W, 3) uint8 RGB.
            purified: The same, purified.

        Returns:
            Suspicion in [0, 1], by the detector's calibration; None if there is no detector.
        """
        if self._detector is None or self._clean_quantiles is None:
            return None
        # Each image by itself, at its own size: padding and company would shift the calibration.
        pair = [
            torch.tensor(pixels[np.newaxis], device=self._device) for pixels in (upload, purified)
        ]
        scores = self._detector(*pair).cpu().numpy()
        return float(suspicions_of(scores, self._clean_quantiles)[0])

    @torch.inference_mode()
    def _purify(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Torch starts every process with one and the same seed: noise that an attacker can replay
        # protects little, so each batch takes its seed from the system.
        self._generator.manual_seed(secrets.randbits(SEED_BITS))
        pixels = torch.tensor(images, device=self._device)
        num_images, height, width, _ = images.shape
        noise = self._graph.draw_noise(num_images, height, width, self._generator)
        purified, total = self._graph(pixels, noise)
        if not torch.isfinite(total):
            msg = "the purifier gave values that are no numbers"
            raise ArithmeticError(msg)
        picture: NDArray[np.uint8] = purified.cpu().numpy()
        return picture


def load_engine(options: EngineOptions) -> TorchEngine:
    """Loads the pipeline, its adapters fused, and the detector that the options name.

    Raises:
        OSError: There is no such pipeline.
        ValueError: It is of no known kind, or its adapters do not fit.
        RuntimeError: There is no such device.
        ValueError: The detector is not calibrated.
    """
    if options.cpu_threads is not None:
        torch.set_num_threads(options.cpu_threads)
    # Convolution shapes repeat: let cuDNN choose its algorithms once per bucket.
    torch.backends.cudnn.benchmark = True
    # Workers have no terminal: a progress bar would only litter the log.
    disable_progress_bar()
    device = _device(options)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    pipeline = load_purifier(options.purifier, options.adapters, dtype=dtype)
    return TorchEngine(pipeline, device, _load_detector(options.detector))


def _load_detector(source: str | None) -> SuspicionDetector | None:
    if source is None:
        return None
    # Single precision everywhere: it is small, and thresholds are where halves would differ.
    detector: SuspicionDetector = SuspicionDetector.from_pretrained(
        source, torch_dtype=torch.float32
    )
    suspicions_of(np.zeros(1), detector.config.clean_quantiles)
    return detector


def _device(options: EngineOptions) -> torch.device:
    if options.device != "auto":
        return torch.device(options.device)
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
