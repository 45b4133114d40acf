"""The engine that runs a diffusers pipeline with torch; imported by workers, never by the service.

fp16 on CUDA, fp32 on a CPU, channels last on both.
"""

import secrets

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar
from numpy.typing import NDArray

from models.purifier.loading import load_purifier
from models.purifier.purifier import Purifier
from models.quantise import dequantise, quantise
from service.purify.engine import EngineFacts, EngineOptions

__all__ = ["TorchEngine", "load_engine"]

SEED_BITS = 63


class TorchEngine:
    """Runs one pipeline on one device."""

    def __init__(self, pipeline: Purifier, device: torch.device) -> None:
        """Moves the pipeline to its device.

        Args:
            pipeline: A purification pipeline of any kind and floating point type.
            device: Where it runs.
        """
        self._device = device
        self._dtype = pipeline.dtype
        self._pipeline = pipeline.to(device)
        for component in self._pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                component.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        )

    @torch.inference_mode()
    def purify(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Purifies one batch, with fresh noise for every image.

        Args:
            images: (B, H, W, 3) uint8 RGB.

        Returns:
            The same shape and type.
        """
        # Torch starts every process with one and the same seed: noise that an attacker can replay
        # protects little, so each batch takes its seed from the system.
        self._generator.manual_seed(secrets.randbits(SEED_BITS))
        pixels = torch.tensor(images, device=self._device)
        batch = dequantise(pixels, self._dtype)
        purified = self._pipeline.purify(batch, generator=self._generator)
        return quantise(purified).cpu().numpy()


def load_engine(options: EngineOptions) -> TorchEngine:
    """Loads the pipeline that the options name, its adapters fused.

    Raises:
        OSError: There is no such pipeline.
        ValueError: It is of no known kind, or its adapters do not fit.
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
    pipeline = load_purifier(options.purifier, options.adapters, dtype=dtype)
    return TorchEngine(pipeline, device)


def _device(options: EngineOptions) -> torch.device:
    if options.device != "auto":
        return torch.device(options.device)
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
