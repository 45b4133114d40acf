"""Every way to run a purifier's network: the service's, and diffusers' own as it comes.

Each runs in a process of its own, as a worker of the service does.
"""

import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.utils.logging import disable_progress_bar
from numpy.typing import NDArray

from benchmarks.roofline import measure_limits
from benchmarks.trace import make_picture
from codefend.models.purifier.empty_prompt import EmptyPrompt
from codefend.models.purifier.graph import PurifierGraph
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_network import stable_diffusion_schedule
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.purifier import Purifier
from codefend.models.quantise import dequantise, quantise
from codefend.service.devices import Backend, CpuDtype
from codefend.service.processes.child import Ask, Handler, Message, bound_spinning
from codefend.service.purify.backends import load_engine
from codefend.service.purify.cuda import CudaDevice
from codefend.service.purify.engine import EngineOptions, GraphLimits, Runner
from codefend.service.purify.graph_runner import GraphRunner
from codefend.service.purify.torch_runner import TorchRunner

__all__ = ["RANDOM_LATENT", "TINY_LATENT", "EngineMode", "Subject", "load_network", "make_timer"]

RANDOM_LATENT = "random-latent"
"""Stable Diffusion 1.5's network with a tiny autoencoder, of random weights."""
TINY_LATENT = "tiny-latent"
"""The same in the size of a test."""
MEBIBYTE = 1 << 20
# Of any batch that is measured; a shape is captured when it is met, and none at the start.
LIMITS = GraphLimits(64, 64 * 512 * 512, memory_share=0.5, start_sides_px=())
MOST_COMPILED_SHAPES = 64


class EngineMode(StrEnum):
    """How a network is run."""

    EAGER = "eager"
    OPENVINO = "openvino"
    OPENVINO_INT8 = "openvino_int8"
    GRAPHS = "graphs"
    COMPILED = "compiled"  # by torch.compile, below captured graphs
    STOCK_FLOAT32 = "stock_float32"  # diffusers' pipeline, as its documentation calls one
    STOCK_FLOAT16 = "stock_float16"


_CPU_DTYPES = {EngineMode.OPENVINO: CpuDtype.FLOAT32, EngineMode.OPENVINO_INT8: CpuDtype.INT8}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        mode: How it is run.
        network: A purifier's directory or hub id, or one of random weights.
        device: As in CODEFEND_DEVICES.
    """

    mode: EngineMode
    network: str
    device: str


def load_network(network: str, device: torch.device, dtype: torch.dtype) -> Purifier:
    """The purifier of a subject.

    Args:
        network: As in `Subject`.
        device: Where random weights are made; on `meta` they take neither time nor memory.
        dtype: Of its parameters.
    """
    disable_progress_bar()
    if network not in {RANDOM_LATENT, TINY_LATENT}:
        return load_purifier(network, dtype=dtype)
    latent = LatentPurificationPipeline.tiny() if network == TINY_LATENT else _random_latent(device)
    for part in (latent.unet, latent.vae, latent.empty_prompt):
        torch.nn.Module.to(part, dtype)
    return latent


def make_timer(subject: Subject) -> tuple[Handler, dict[str, Any]]:
    """Loads a subject; a message then says what batch to time, or asks for memory or limits."""
    bound_spinning()
    started_s = time.perf_counter()
    runner, device = _load(subject)
    load_s = time.perf_counter() - started_s

    def answer(meta: dict[str, Any], _: bytes, __: Ask) -> Message:
        if "images" in meta:
            return _time(runner, meta["images"], meta["side_px"]), b""
        if "limits_of" in meta:
            dtype: torch.dtype = getattr(torch, meta["limits_of"])
            return asdict(measure_limits(torch.device(device), dtype)), b""
        return _memory(), b""

    on_gpu = device.startswith("cuda")
    described = torch.cuda.get_device_name(device) if on_gpu else device
    return answer, {"device": described, "load_s": load_s}


def _time(runner: Runner, num_images: int, side_px: int) -> dict[str, float]:
    batch = np.stack([make_picture(side_px, side_px).pixels] * num_images)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    runner.purify(batch, seed=0)
    return {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}


def _memory() -> dict[str, float]:
    told = {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        told |= {
            "gpu_mib": torch.cuda.max_memory_reserved() / MEBIBYTE,
            "gpu_used_mib": (total - free) / MEBIBYTE,
        }
    return told


def _load(subject: Subject) -> tuple[Runner, str]:
    """What runs it, and torch's name of the device."""
    if subject.mode in _CPU_DTYPES:
        options = EngineOptions(
            subject.network,
            subject.device,
            backend=Backend.OPENVINO,
            cpu_dtype=_CPU_DTYPES[subject.mode],
        )
        return load_engine(options).runner, "cpu"  # type: ignore[attr-defined]
    name = subject.device
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    on_gpu = device.type == "cuda"
    single = subject.mode is EngineMode.STOCK_FLOAT32 or not on_gpu
    purifier = load_network(subject.network, device, torch.float32 if single else torch.float16)
    if subject.mode in {EngineMode.STOCK_FLOAT32, EngineMode.STOCK_FLOAT16}:
        return _Stock(purifier.to(device)), name
    graph = PurifierGraph(purifier)
    if subject.mode is EngineMode.COMPILED:
        torch._dynamo.config.recompile_limit = MOST_COMPILED_SHAPES
        graph.compile(dynamic=False)
    eager = TorchRunner(graph, device)
    if subject.mode is EngineMode.EAGER:
        return eager, name
    return GraphRunner(eager, CudaDevice(device), LIMITS), name


class _Stock:
    """Diffusers as it comes: no memory format, no search for algorithms, copies that wait."""

    def __init__(self, pipeline: Purifier) -> None:
        self._pipeline = pipeline

    def purify(
        self, images: NDArray[np.uint8], seed: int, levels: Sequence[float] | None = None
    ) -> tuple[NDArray[np.uint8], float]:
        pixels = torch.tensor(images, device=self._pipeline.device)
        generator = torch.Generator(self._pipeline.device).manual_seed(seed)
        floats = dequantise(pixels, self._pipeline.dtype).contiguous()
        purified = self._pipeline(floats, generator=generator)
        # Random weights may give no numbers; they take as long.
        return quantise(purified.nan_to_num()).cpu().numpy(), 0.0


def _random_latent(device: torch.device) -> LatentPurificationPipeline:
    with torch.device(device):
        network = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        autoencoder = AutoencoderTiny()
        prompt = EmptyPrompt()
    return LatentPurificationPipeline(
        autoencoder,
        network,
        stable_diffusion_schedule(),
        prompt,
        noise_level=0.2,
        name=RANDOM_LATENT,
    )
