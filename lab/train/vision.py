"""First half of the embedded MLLM: its tower learns what stands in every patch.

Dense labels from the compositor teach a small tower far faster than image–text loss alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from codefend.lab.precision import compute_dtype
from codefend.lab.train.loop import LoopSettings, train_loop
from codefend.lab.world.compose import World
from codefend.lab.world.scenes import scene_batch
from codefend.models.mllm.architecture import NUM_IMAGE_TOKENS, PATCH_PX, Architecture, vision_tower

__all__ = ["DenseTower", "SceneNumbers", "patch_features", "patch_labels", "train_vision"]

FOREGROUND_SHARE = 0.3
BACKGROUND_WEIGHT = 0.3


class DenseTower(nn.Module):
    """A vision tower with a linear classifier on each of its 8×8 patch features."""

    def __init__(self, num_classes: int, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.tower = vision_tower(architecture)
        self.classifier = nn.Linear(self.tower.config.hidden_size, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 128, 128) uint8 → logits (B, 64, classes)."""
        dtype = compute_dtype(images.device)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            features = patch_features(self.tower, images)
        logits: Tensor = self.classifier(features.float())
        return logits


def patch_features(tower: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, 128, 128) uint8 → (B, 64, C), the class token of a ViT left out."""
    features: Tensor = tower(images.float() / 127.5 - 1).last_hidden_state
    return features[:, -NUM_IMAGE_TOKENS:]


def patch_labels(labels: Tensor, num_classes: int) -> Tensor:
    """(B, H, W) pixel labels → (B, 64): the commonest object of a patch if it covers 30 % of it."""
    batch, side, _ = labels.shape
    grid = side // PATCH_PX
    patches = labels.view(batch, grid, PATCH_PX, grid, PATCH_PX).transpose(2, 3)
    flat = patches.reshape(batch * grid * grid, PATCH_PX**2).long()
    counts = torch.zeros(len(flat), num_classes, dtype=torch.int32, device=labels.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.int32))
    counts[:, 0] = int(FOREGROUND_SHARE * PATCH_PX**2)
    return counts.argmax(1).view(batch, grid * grid)


@dataclass(frozen=True, slots=True)
class SceneNumbers:
    """Which scenes a step sees: ever new ones, or a finite set over and over.

    Attributes:
        batch_size: Scenes a step.
        num_scenes: How many there are; None for no end.
    """

    batch_size: int
    num_scenes: int | None = None

    def __getitem__(self, step: int) -> Sequence[int]:
        """The numbers of one step's scenes."""
        first = step * self.batch_size
        numbers = range(first, first + self.batch_size)
        end = self.num_scenes
        return numbers if end is None else [number % end for number in numbers]


class _DenseBatches:
    def __init__(self, world: World, numbers: SceneNumbers, seed: int) -> None:
        self._world, self._numbers, self._seed = world, numbers, seed

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        batch = scene_batch(self._world, "train", self._numbers[step], seed=self._seed)
        return batch.images, patch_labels(batch.labels, len(self._world.class_names))


def train_vision(
    world: World,
    architecture: Architecture,
    folder: Path,
    settings: LoopSettings,
    *,
    numbers: SceneNumbers,
    seed: int = 0,
) -> DenseTower:
    """Train a tower on dense labels; the checkpoint in ``folder`` is resumed where there is one."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = DenseTower(len(world.class_names), architecture).to(device)
    weight = torch.ones(len(world.class_names), device=device)
    weight[0] = BACKGROUND_WEIGHT

    def loss_of(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        images, targets = (tensor.to(device) for tensor in batch)
        logits = model(images)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), weight)
        objects = targets > 0
        correct = logits.argmax(-1)[objects] == targets[objects]
        return loss, {"patch_accuracy": float(correct.float().mean())}

    batches = _DenseBatches(world, numbers, seed)
    train_loop(
        model, batches, loss_of, settings, checkpoint=folder / "vision.pt", label="vision tower"
    )
    return model
