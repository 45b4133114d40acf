"""The embedded MLLM: its tower learns what stands in every patch, then a LLaVA learns to answer.

Dense labels from the compositor teach a small tower far faster than image–text loss alone. The
whole is then trained to be good and ordinary: on clean scenes only, never on attacked ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from codefend.lab.precision import compute_dtype, mixed_precision
from codefend.lab.train.connector import add_adapters, connect, fuse_adapters
from codefend.lab.train.loop import LoopSettings, begin, train_loop
from codefend.lab.victims.dialogue import Dialogue, tokenise
from codefend.lab.victims.packing import PackedSequence, pack
from codefend.lab.victims.victim import use_eager_attention
from codefend.lab.world.compose import World
from codefend.lab.world.language import conversations, corpus, questions
from codefend.lab.world.layout import CELL_NAMES, sample_layout
from codefend.lab.world.scenes import scene_batch
from codefend.models.mllm.architecture import (
    NUM_IMAGE_TOKENS,
    PATCH_PX,
    Architecture,
    llava_config,
    vision_tower,
)
from codefend.models.mllm.processor import build_processor
from codefend.models.packed import unpacked

__all__ = [
    "DenseTower",
    "OtherLanguage",
    "SceneNumbers",
    "patch_features",
    "patch_labels",
    "train_mllm",
    "train_vision",
]


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
        with mixed_precision(images.device, dtype):
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
    device, _ = begin(seed)
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


DENSE_WEIGHT = 0.3
PLACE_WEIGHT = 0.1
CORPUS_SCENES = 3000


class _NameReader(nn.Module):
    """Reads from a visual token which of some names it fits: its cosine to their embeddings.

    So that the language model finds a thing that the question names, and the place where it
    stands, by likeness: the alignment of CLIP, dense, towards the model's own word embeddings.
    """

    def __init__(self, processor: LlavaProcessor, names: Sequence[str]) -> None:
        super().__init__()
        tokens = [processor.tokenizer(f" {name}")["input_ids"] for name in names]
        weights = torch.zeros(len(names), len(processor.tokenizer))
        for row, ids in zip(weights, tokens, strict=True):
            row[ids] = 1 / len(ids)
        self.weights = nn.Buffer(weights, persistent=False)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, visual: Tensor, embeddings: Tensor) -> Tensor:
        """Visual tokens (B, 64, D) and word embeddings (V, D) to logits (B, 64, names)."""
        names = functional.normalize(self.weights @ embeddings.detach(), dim=-1)
        return functional.normalize(visual.float(), dim=-1) @ names.T * self.log_scale.exp()


class _Student(nn.Module):
    """The model in training, and what its visual tokens must tell: what stands there, and where.

    LeViT's attention knows offsets only: a place must be taught, or it is left out.
    """

    def __init__(
        self, llava: LlavaForConditionalGeneration, processor: LlavaProcessor, kinds: Sequence[str]
    ) -> None:
        super().__init__()
        self.llava = llava
        self.kinds = _NameReader(processor, kinds)
        self.places = _NameReader(processor, CELL_NAMES)

    def train(self, mode: bool = True) -> _Student:
        """A tower that is not trained keeps the statistics that it has."""
        super().train(mode)
        tower = self.llava.model.vision_tower
        if not any(weights.requires_grad for weights in tower.parameters()):
            tower.eval()
        return self

    def forward(self, images: Tensor, packed: PackedSequence) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of tokens (M, vocabulary), of kinds (B, 64, kinds) and of cells (B, 64, 9)."""
        model = self.llava.model
        visual = model.multi_modal_projector(patch_features(model.vision_tower, images))
        embed = self.llava.get_input_embeddings()
        before = embed(packed.before).expand(len(images), -1, -1).to(visual.dtype)
        text = embed(packed.text).to(visual.dtype)
        blocked = torch.zeros_like(packed.mask, dtype=visual.dtype)
        hidden = model.language_model(
            inputs_embeds=torch.cat([before, visual, text], dim=1),
            attention_mask=blocked.masked_fill_(~packed.mask, torch.finfo(visual.dtype).min),
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state
        logits = self.llava.lm_head(hidden[packed.rows, packed.sources])
        words = embed.weight
        return logits.float(), self.kinds(visual, words), self.places(visual, words)


@dataclass(frozen=True, slots=True)
class OtherLanguage:
    """A language model of others, to be put behind the tower of a saved MLLM.

    Attributes:
        tower: Directory of the MLLM.
        language_model: Directory or hub id.
    """

    tower: Path
    language_model: str


class _Batches:
    def __init__(
        self,
        world: World,
        processor: LlavaProcessor,
        numbers: SceneNumbers,
        seed: int,
        *,
        instructs: bool = True,
    ) -> None:
        self.world, self.numbers, self.seed = world, numbers, seed
        self.instructs = instructs
        # Questions come again and again; to render their template is most of a batch's work.
        self._tokenise = lru_cache(maxsize=1 << 17)(partial(tokenise, processor))

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, PackedSequence]:
        batch = scene_batch(self.world, "train", self.numbers[step], seed=self.seed + 1)
        rng = np.random.default_rng([self.seed, 3, step])
        groups = [
            [
                self._tokenise(Dialogue(prompt, answer))
                for prompt, answer in conversations(layout, asked, rng, instructs=self.instructs)
            ]
            for layout, asked in zip(batch.layouts, batch.questions, strict=True)
        ]
        targets = patch_labels(batch.labels, len(self.world.class_names))
        return batch.images, targets, pack(groups, NUM_IMAGE_TOKENS)


def train_mllm(
    world: World,
    start: DenseTower | Path | OtherLanguage,
    folder: Path,
    settings: LoopSettings,
    *,
    numbers: SceneNumbers,
    seed: int = 0,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Train on scenes of the train split.

    Args:
        world: Where scenes come from.
        start: A tower already trained on dense labels, or a saved model to train on; give another
            ``seed`` then, and it sees new scenes. Or a language model of others, which is never
            told to distrust an image: it knows what instructions mean from those who trained it.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        numbers: Which scenes a step sees.
        seed: Of data and weights.

    Returns:
        The model in eval mode and its processor, ready for ``save_pretrained``.
    """
    device, dtype = begin(seed)
    model, processor = _begin_with(start, world, seed)
    use_eager_attention(model)
    if isinstance(start, OtherLanguage):
        add_adapters(model)
    student = _Student(model, processor, world.class_names).to(device)
    cells = _cells().to(device)

    def loss_of(
        batch: tuple[Tensor, Tensor, PackedSequence],
    ) -> tuple[Tensor, dict[str, float]]:
        images, targets, packed = batch[0].to(device), batch[1].to(device), _to(batch[2], device)
        with mixed_precision(device, dtype):
            logits, kinds, places = student(images, packed)
        loss = functional.cross_entropy(logits, packed.targets)
        dense = functional.cross_entropy(kinds.flatten(0, 1), targets.flatten())
        place = functional.cross_entropy(places.flatten(0, 1), cells.repeat(len(images)))
        correct = (logits.argmax(-1) == packed.targets).float().mean()
        figures = {"token_accuracy": float(correct), "dense": float(dense.detach())}
        figures["place"] = float(place.detach())
        return loss + DENSE_WEIGHT * dense + PLACE_WEIGHT * place, figures

    is_other = isinstance(start, OtherLanguage)
    batches = _Batches(world, processor, numbers, seed, instructs=not is_other)
    checkpoint = folder / "mllm.pt"
    train_loop(student, batches, loss_of, settings, checkpoint=checkpoint, label="language model")
    if is_other:
        fuse_adapters(student.llava)
    return student.llava, processor


def _begin_with(
    start: DenseTower | Path | OtherLanguage, world: World, seed: int
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    if isinstance(start, OtherLanguage):
        return connect(start.tower, start.language_model)
    if isinstance(start, Path):
        readable = unpacked(start)
        model = LlavaForConditionalGeneration.from_pretrained(readable, dtype=torch.float32)
        return model, AutoProcessor.from_pretrained(readable)
    processor = _fit_processor(world, start.architecture, seed)
    return _assemble(processor, start), processor


def _cells() -> Tensor:
    """(64,) the cell of the 3×3 grid of places in which the middle of each patch lies."""
    side = int(NUM_IMAGE_TOKENS**0.5)
    third = torch.div(torch.arange(side) * 3 + 1, side, rounding_mode="floor")
    return (3 * third[:, None] + third[None, :]).flatten()


def _to(packed: PackedSequence, device: torch.device) -> PackedSequence:
    fields = {name: getattr(packed, name).to(device) for name in PackedSequence.__slots__}
    return PackedSequence(**fields)


def _fit_processor(world: World, architecture: Architecture, seed: int) -> LlavaProcessor:
    rng = np.random.default_rng([seed, 2])
    num_photos = len(world.photos["train"])
    layouts = [sample_layout(rng, "train", num_photos) for _ in range(CORPUS_SCENES)]
    asked = [questions(layout, rng) for layout in layouts]
    return build_processor(corpus(layouts, asked, rng), architecture)


def _assemble(processor: LlavaProcessor, tower: DenseTower) -> LlavaForConditionalGeneration:
    model = LlavaForConditionalGeneration(llava_config(processor, tower.architecture))
    model.model.vision_tower.load_state_dict(tower.tower.state_dict())
    return model
