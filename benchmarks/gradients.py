"""Gradients through the purifier in the image: what attacks and adversarial training wait for."""

import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from benchmarks.report import Figure, percentiles_ms
from codefend.lab.train.loop import captured
from codefend.models.packed import unpacked
from codefend.models.purifier.denoiser import denoise
from codefend.models.purifier.pipeline import PurificationPipeline

__all__ = ["measure_gradients"]

SIDE_PX = 128
BATCH_SIZE = {"cuda": 128, "cpu": 8}
PRECISIONS = ("float32", "autocast", "bfloat16")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BASELINE = ("float32", "contiguous")
WARM_UP_STEPS = 2


def measure_gradients(purifier: str, device: str, num_steps: int) -> tuple[list[Figure], str]:
    """Measures one gradient step at every precision and memory format, beside plain float32.

    On CUDA every step is one captured graph, so that the device is what is measured.

    Args:
        purifier: Directory or hub id.
        device: `auto`, `cpu` or a CUDA device.
        num_steps: Timed for each.

    Returns:
        The rows, and the device by name.
    """
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    target = torch.device(where)
    batch_size = BATCH_SIZE[target.type]
    times = {
        (precision, layout): _time_steps(purifier, target, precision, layout, num_steps)
        for precision, layout in product(PRECISIONS, LAYOUTS)
    }
    slowest = batch_size / statistics.median(times[BASELINE])
    rows = [
        Figure(
            name=f"gradients_{precision}_{layout}",
            config={"batch_size": batch_size, "side_px": SIDE_PX, "baseline": " ".join(BASELINE)},
            value=batch_size / statistics.median(seconds),
            unit="images/s",
            baseline=slowest,
            **percentiles_ms(seconds),
        )
        for (precision, layout), seconds in times.items()
    ]
    name = torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu"
    return rows, name


def _time_steps(
    purifier: str, device: torch.device, precision: str, layout: str, num_steps: int
) -> list[float]:
    network = PurificationPipeline.from_pretrained(unpacked(purifier), dtype=torch.float32).unet
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    network.to(device, dtype=dtype, memory_format=LAYOUTS[layout]).requires_grad_(False)
    images = torch.rand(BATCH_SIZE[device.type], 3, SIDE_PX, SIDE_PX, device=device, dtype=dtype)
    torch.backends.cudnn.benchmark = True

    def step(batch: Tensor) -> dict[str, Tensor]:
        leaf = batch.detach().requires_grad_(True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "autocast"):
            purified = denoise(network, leaf, 0.03)
        (gradients,) = torch.autograd.grad(purified.float().square().sum(), leaf)
        return {"gradients": gradients}

    run = captured(step, [images])
    return [_seconds(run, images) for _ in range(WARM_UP_STEPS + num_steps)][WARM_UP_STEPS:]


def _seconds(run: Callable[[Tensor], dict[str, Tensor]], images: Tensor) -> float:
    started_s = time.perf_counter()
    run(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started_s
