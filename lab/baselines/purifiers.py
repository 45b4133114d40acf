"""Diffusion purifiers as defences: ours as served, and DiffPure with the base before fine-tuning.

DiffPure: Nie et al. 2022, "Diffusion Models for Adversarial Purification", equations 4 to 6: noise
to a level t*, then the reverse process in several steps.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import Generator, Tensor, nn

from codefend.lab.baselines.defence import (
    Defence,
    Forward,
    recomputed,
    straight_through,
    with_gradient_of,
)
from codefend.lab.errors import LabError, no_weights
from codefend.models.manifest import weights_sha256
from codefend.models.purifier.adapters import find_adapters, is_adapters
from codefend.models.purifier.eight_bit import eight_bit
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.loading import load_purifier as load_pipeline
from codefend.models.purifier.purifier import Purifier, run_directly
from codefend.models.purifier.ranges import read_ranges

__all__ = [
    "load_purifier",
    "noise_source",
    "purifying",
    "purifying_between",
    "round_trip",
]

_INT8 = ":int8"


def load_purifier(directory: Path, *, device: str = "cpu") -> tuple[Purifier, str]:
    """A pipeline of any kind in single precision, and the hash of its weights.

    Args:
        directory: of a pipeline, or of adapters, whose base is loaded with them; or a hub id.
            With `:int8` behind it, as a CPU runs it in 8-bit integers.
        device: torch device.

    Raises:
        LabError: where the directory holds no pipeline.
    """
    if directory.name.endswith(_INT8):
        return _in_eight_bits(directory.with_name(directory.name.removesuffix(_INT8)), device)
    is_local = (directory / "model_index.json").exists() or is_adapters(directory)
    if not is_local and (directory.exists() or not _is_hub_id(directory)):
        raise no_weights(directory, "no purifier", "make it with: codefend-lab train")
    try:
        pipeline = load_pipeline(directory)
    except (OSError, ValueError) as error:
        raise LabError(f"{directory} cannot be loaded: {error}") from error
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False)
            component.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, _weights_of(directory)


def _in_eight_bits(directory: Path, device: str) -> tuple[Purifier, str]:
    pipeline, sha256 = load_purifier(directory, device=device)
    try:
        ranges = read_ranges(directory)
        if ranges is None:
            raise LabError(f"{directory} has no ranges: codefend-lab train ranges {directory}")
        rounded = eight_bit(pipeline, ranges)
    except ValueError as error:
        raise LabError(f"{directory}{_INT8}: {error}") from error
    rounded.to(device)
    told = f"{sha256}\n{sorted(ranges.items())}"
    return rounded, hashlib.sha256(told.encode()).hexdigest()


def _is_hub_id(source: Path) -> bool:
    return not source.is_absolute() and len(source.parts) == 2


def _weights_of(source: Path) -> str:
    """Of adapters, together with their base's: either changes what comes out."""
    folder = source
    if not source.exists():  # then the hub's files were just fetched
        folder = Path(snapshot_download(str(source), local_files_only=True))
    own = weights_sha256(folder)
    if not is_adapters(folder):
        return own
    base = _weights_of(Path(find_adapters(folder).base))
    return hashlib.sha256(f"{own}\n{base}".encode()).hexdigest()


def purifying(
    name: str,
    pipeline: Purifier,
    sha256: str,
    *,
    noise_level: float | None = None,
    num_steps: int | None = None,
) -> Defence:
    """Purification with fresh noise.

    A white-box attacker gets through it exactly, by BPDA, or by a proxy step (Lee & Kim 2023,
    "Robust Evaluation of Diffusion-Based Adversarial Purification"): the value is that of the whole
    purification, the gradient that of one step; where it has only one, of a step at twice its noise
    level, where the network is smoother.

    Args:
        name: what reports call it: ``purifier`` or ``diffpure``.
        pipeline: the purifier.
        sha256: of its weights.
        noise_level: how much noise, on the scale of its kind; as served where None.
        num_steps: denoising steps; as served where None.
    """
    level = pipeline.config.noise_level if noise_level is None else noise_level
    steps = pipeline.config.num_steps if num_steps is None else num_steps

    def apply(images: Tensor, generator: Generator) -> Tensor:
        noise = noise_source(pipeline, generator)
        uploads = images.to(pipeline.device)
        purified = pipeline.purify(uploads, noise, num_steps=steps, noise_level=level)
        return purified.to(images.device)

    def exact(images: Tensor, generator: Generator) -> Tensor:
        purified = pipeline.purify_with_gradient(
            images.to(pipeline.device),
            noise_source(pipeline, generator),
            num_steps=steps,
            noise_level=level,
            # A single step is what the backward pass holds in any case.
            run=recomputed if steps > 1 else run_directly,
        )
        return purified.to(images.device)

    def by_proxy(images: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            purified = apply(images.detach(), generator)
        proxy = pipeline.purify_with_gradient(
            images.to(pipeline.device),
            noise_source(pipeline, generator),
            num_steps=1,
            noise_level=level if steps > 1 else min(1.0, 2.0 * level),
        )
        return with_gradient_of(purified, proxy.to(images.device))

    return Defence(
        name,
        f"noise_level={level:g} num_steps={steps} weights={sha256[:12]}",
        apply,
        is_random=True,
        gradient_paths={"exact": exact, "bpda": straight_through(apply), "surrogate": by_proxy},
    )


def purifying_between(
    name: str, pipeline: Purifier, sha256: str, lowest: float, highest: float
) -> Defence:
    """Purification whose noise level, too, is drawn anew for every image: uniform between two.

    Whoever attacks through it averages over levels beside noise, in each of the ways of
    ``purifying``.

    Args:
        name: what reports call it.
        pipeline: the purifier.
        sha256: of its weights.
        lowest: noise level, on the scale of its kind.
        highest: likewise, above ``lowest``.

    Raises:
        ValueError: these are no two rising levels in (0, 1].
    """
    if not 0 < lowest < highest <= 1:
        raise ValueError("a range is of two levels in (0, 1], the lower first")

    def drawn(way: str) -> Forward:
        def forward(images: Tensor, generator: Generator) -> Tensor:
            done = []
            for image in images.unsqueeze(1):
                # A source of its own: some ways draw more than others, and the next image's level
                # must not depend on that.
                source = _branch(generator, "cpu")
                share = float(torch.rand((), generator=source))
                level = lowest + share * (highest - lowest)
                own = purifying(name, pipeline, sha256, noise_level=level)
                passage = own.gradient_paths[way] if way else own.apply
                done.append(passage(image, source))
            return torch.cat(done)

        return forward

    fixed = purifying(name, pipeline, sha256, noise_level=highest)
    return Defence(
        name,
        f"noise_level={lowest:g}-{highest:g} num_steps={pipeline.config.num_steps} "
        f"weights={sha256[:12]}",
        drawn(""),
        is_random=True,
        gradient_paths={way: drawn(way) for way in fixed.gradient_paths},
    )


def noise_source(pipeline: Purifier, generator: Generator) -> Generator:
    """A generator on the pipeline's device, seeded by one draw from ``generator`` on the CPU."""
    return _branch(generator, pipeline.device)


def _branch(generator: Generator, device: torch.device | str) -> Generator:
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def round_trip(pipeline: Purifier, sha256: str) -> Defence:
    """Encode and decode: a latent purifier must do better, or its network does nothing.

    Args:
        pipeline: the latent base.
        sha256: of its weights.

    Raises:
        LabError: where the pipeline has no autoencoder.
    """
    if not isinstance(pipeline, LatentPurificationPipeline):
        raise LabError("autoencoder: a round trip needs a latent --base")

    def exact(images: Tensor, generator: Generator) -> Tensor:
        return pipeline.reconstruct(images.to(pipeline.device)).to(images.device)

    return Defence(
        "autoencoder",
        f"weights={sha256[:12]}",
        exact,
        gradient_paths={"exact": exact, "bpda": straight_through(exact)},
    )
