"""The detector: attacked images against clean and benignly altered ones, beside their purified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codefend.lab.baselines.defence import Defence, defend
from codefend.lab.detection.benign import alter_benignly
from codefend.lab.errors import LabError
from codefend.lab.progress import progress
from codefend.lab.train.crops import clean_crops, photo_crops, text_crops
from codefend.lab.train.loop import LoopSettings, begin, train_loop
from codefend.lab.train.pairs import load_pairs
from codefend.lab.world.compose import World
from codefend.lab.world.scenes import scene_batch
from codefend.models.detector.network import SuspicionDetector

__all__ = ["CROP_PX", "Examples", "calibration_images", "make_examples", "train_detector"]

CROP_PX = 112
_SHARD = 128


@dataclass(frozen=True, slots=True)
class Examples:
    """Uploads beside their purified selves, both (N, H, W, 3) uint8, and whether each is attacked.

    Attributes:
        uploads: what comes in.
        purified: what the purifier makes of it.
        attacked: (N,) bool.
    """

    uploads: np.ndarray
    purified: np.ndarray
    attacked: np.ndarray


def make_examples(
    sources: Sequence[Path],
    world: World,
    purifier: Defence,
    folder: Path,
    *,
    num_crops: int,
    seed: int = 0,
) -> list[Examples]:
    """Purify what the detector learns from; what is in ``folder`` already is not done again.

    Of every pair the attacked image, the clean one, and the clean one benignly altered; of crops of
    photos and text the crop and its alteration.

    Args:
        sources: folders of pairs, each of one size.
        world: for the crops, of 128 px.
        purifier: what will stand before the detector, at its own noise level.
        folder: where examples are kept, a file of 128 originals each.
        num_crops: how many crops.
        seed: of alterations and noise.

    Raises:
        LabError: a folder holds no pairs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 11])
    crops = clean_crops(world, num_crops, 128, rng).permute(0, 2, 3, 1).numpy()
    groups: list[tuple[str, np.ndarray, np.ndarray | None]] = [("crops", crops, None)]
    for source in sources:
        pairs = load_pairs(source)
        clean, attacked = (
            images.permute(0, 2, 3, 1).numpy() for images in (pairs.clean, pairs.attacked)
        )
        groups.append((source.name, clean, attacked))
    if len({name for name, *_ in groups}) < len(groups):
        raise LabError("folders of pairs must differ in their last name")
    shards = [
        (f"{name}-{start:05d}", clean[start : start + _SHARD], _part(attacked, start))
        for name, clean, attacked in groups
        for start in range(0, len(clean), _SHARD)
    ]
    return [
        _kept(folder / f"{name}.npz", clean, attacked, purifier, [seed, 12, number])
        for number, (name, clean, attacked) in enumerate(progress(shards, desc="examples"))
    ]


def _part(images: np.ndarray | None, start: int) -> np.ndarray | None:
    return None if images is None else images[start : start + _SHARD]


def _kept(
    path: Path,
    clean: np.ndarray,
    attacked: np.ndarray | None,
    purifier: Defence,
    seed: list[int],
) -> Examples:
    if not path.exists():
        rng = np.random.default_rng(seed)
        altered = np.stack([alter_benignly(pixels, rng) for pixels in clean])
        uploads = [clean, altered] if attacked is None else [clean, altered, attacked]
        images = np.concatenate(uploads)
        labels = np.arange(len(images)) >= 2 * len(clean)
        noise_seed = int(rng.integers(2**31))
        purified = np.stack(defend(purifier, list(images), seed=noise_seed))
        np.savez(path.with_suffix(".partial.npz"), uploads=images, purified=purified, labels=labels)
        path.with_suffix(".partial.npz").rename(path)
    with np.load(path) as file:
        return Examples(file["uploads"], file["purified"], file["labels"])


def calibration_images(world: World, num: int, *, seed: int = 0) -> list[list[np.ndarray]]:
    """Groups of images of the validation split that nobody attacked, (H, W, 3) uint8.

    Half of ``num`` are scenes, a third windows of photos at 224 px, the rest text. Each of the
    three comes as it is, and once more benignly altered: few images arrive as they were taken.

    Returns:
        Six groups, 2 ``num`` images together.
    """
    rng = np.random.default_rng([seed, 15])
    scenes = scene_batch(world, "validation", range(num // 2), seed=seed + 30).images
    photos = photo_crops(world, num // 3, 224, rng, "validation")
    texts = text_crops(num - num // 2 - num // 3, 224, rng)
    clean = [
        [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]
        for images in (scenes, photos, texts)
    ]
    return [*clean, *([alter_benignly(pixels, rng) for pixels in group] for group in clean)]


@dataclass(frozen=True, slots=True)
class _Batches:
    """Half attacked, half not; windows at random places, mirrored at random."""

    examples: Sequence[Examples]
    batch_size: int
    seed: int

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, 13, step])
        labels = np.arange(self.batch_size) < self.batch_size // 2
        windows = [self._window(bool(label), rng) for label in labels]
        uploads, purified = (
            torch.from_numpy(np.stack([window[i] for window in windows])).permute(0, 3, 1, 2)
            for i in (0, 1)
        )
        return uploads, purified, torch.from_numpy(labels.astype(np.float32))

    def _window(self, attacked: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        able = [shard for shard in self.examples if (shard.attacked == attacked).any()]
        shard = able[int(rng.integers(len(able)))]
        row = int(rng.choice(np.flatnonzero(shard.attacked == attacked)))
        height, width = shard.uploads.shape[1:3]
        top, left = (int(rng.integers(side - CROP_PX + 1)) for side in (height, width))
        step = -1 if rng.random() < 0.5 else 1
        upload, purified = (
            images[row, top : top + CROP_PX, left : left + CROP_PX][:, ::step]
            for images in (shard.uploads, shard.purified)
        )
        return upload, purified


def train_detector(
    examples: Sequence[Examples],
    folder: Path,
    settings: LoopSettings,
    *,
    batch_size: int = 64,
    seed: int = 0,
) -> SuspicionDetector:
    """Train a detector by binary cross-entropy; it is not calibrated yet.

    Args:
        examples: of ``make_examples``.
        folder: where the checkpoint goes.
        settings: length and rates.
        batch_size: windows a step, half of them attacked.
        seed: of weights and windows.
    """
    device, _ = begin(seed)
    detector: SuspicionDetector = SuspicionDetector()
    detector.to(device, memory_format=torch.channels_last)

    def loss_of(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        uploads, purified, labels = (part.to(device) for part in batch)
        scores = detector(uploads.float() / 255, purified.float() / 255)
        loss = functional.binary_cross_entropy_with_logits(scores, labels)
        right = ((scores > 0) == (labels > 0)).float().mean()
        return loss, {"loss": loss.item(), "right": right.item()}

    checkpoint = folder / "detector.pt"
    batches = _Batches(examples, batch_size, seed)
    train_loop(detector, batches, loss_of, settings, checkpoint=checkpoint, label="detector")
    detector.cpu()
    return detector
