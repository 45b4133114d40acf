"""Second half of the embedded MLLM: a LLaVA around the trained tower learns to answer.

Trained to be good and ordinary: on clean scenes only, never on attacked ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from lab.precision import compute_dtype
from lab.train.loop import LoopSettings, train_loop
from lab.train.vision import DenseTower, patch_labels
from lab.victims.dialogue import Dialogue, tokenise
from lab.victims.packing import PackedSequence, pack
from lab.world.compose import World
from lab.world.instructions import conversations, corpus
from lab.world.language import questions
from lab.world.layout import sample_layout
from lab.world.scenes import scene_batch
from models.mllm.architecture import NUM_IMAGE_TOKENS, llava_config
from models.mllm.processor import build_processor

__all__ = ["train_mllm"]

DENSE_WEIGHT = 0.3
PLACE_WEIGHT = 0.1
CORPUS_SCENES = 3000


class _Student(nn.Module):
    """The model in training, with two linear readers of its patch features.

    One keeps saying what stands in a patch; the other says where the patch is, because LeViT's
    attention knows offsets only and "where" cannot be answered from what the features leave out.
    """

    def __init__(self, llava: LlavaForConditionalGeneration, classifier: nn.Linear) -> None:
        super().__init__()
        self.llava, self.classifier = llava, classifier
        self.place = nn.Linear(classifier.in_features, NUM_IMAGE_TOKENS)

    def forward(self, images: Tensor, packed: PackedSequence) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of tokens (M, vocabulary), of kinds (B, 64, classes) and places (B, 64, 64)."""
        model = self.llava.model
        tower = model.vision_tower(images.float() / 127.5 - 1)
        visual = model.multi_modal_projector(tower.last_hidden_state)
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
        features = tower.last_hidden_state.float()
        return logits.float(), self.classifier(features), self.place(features)


@dataclass(frozen=True, slots=True)
class _Batches:
    world: World
    processor: LlavaProcessor
    batch_size: int
    seed: int

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, PackedSequence]:
        first = step * self.batch_size
        batch = scene_batch(
            self.world, "train", range(first, first + self.batch_size), seed=self.seed + 1
        )
        rng = np.random.default_rng([self.seed, 3, step])
        groups = [
            [
                tokenise(self.processor, Dialogue(prompt, answer))
                for prompt, answer in conversations(layout, asked, rng)
            ]
            for layout, asked in zip(batch.layouts, batch.questions, strict=True)
        ]
        targets = patch_labels(batch.labels, len(self.world.class_names))
        return batch.images, targets, pack(groups, NUM_IMAGE_TOKENS)


def train_mllm(
    world: World,
    tower: DenseTower,
    folder: Path,
    settings: LoopSettings,
    *,
    start_from: Path | None = None,
    batch_size: int = 48,
    seed: int = 0,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Train on scenes of the train split, from a tower already trained on dense labels.

    ``start_from`` names a saved model to train on instead of a new one around the tower; give
    another ``seed`` then, and it sees new scenes.

    Returns:
        The model in eval mode and its processor, ready for ``save_pretrained``.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if start_from is None:
        processor = _fit_processor(world, seed)
        model = _assemble(processor, tower)
    else:
        processor = AutoProcessor.from_pretrained(start_from)
        model = LlavaForConditionalGeneration.from_pretrained(start_from, dtype=torch.float32)
    model.set_attn_implementation({"text_config": "eager"})  # the faster backward under a mask
    student = _Student(model, tower.classifier).to(device)
    dtype = compute_dtype(device)

    def loss_of(
        batch: tuple[Tensor, Tensor, PackedSequence],
    ) -> tuple[Tensor, dict[str, float]]:
        images, targets, packed = batch[0].to(device), batch[1].to(device), _to(batch[2], device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits, kinds, places = student(images, packed)
        loss = functional.cross_entropy(logits, packed.targets)
        dense = functional.cross_entropy(kinds.flatten(0, 1), targets.flatten())
        here = torch.arange(NUM_IMAGE_TOKENS, device=device).repeat(len(images))
        place = functional.cross_entropy(places.flatten(0, 1), here)
        correct = (logits.argmax(-1) == packed.targets).float().mean()
        figures = {"token_accuracy": float(correct), "place": float(place.detach())}
        return loss + DENSE_WEIGHT * dense + PLACE_WEIGHT * place, figures

    batches = _Batches(world, processor, batch_size, seed)
    checkpoint = folder / "mllm.pt"
    train_loop(student, batches, loss_of, settings, checkpoint=checkpoint, label="language model")
    return student.llava, processor


def _to(packed: PackedSequence, device: torch.device) -> PackedSequence:
    fields = {name: getattr(packed, name).to(device) for name in PackedSequence.__slots__}
    return PackedSequence(**fields)


def _fit_processor(world: World, seed: int) -> LlavaProcessor:
    rng = np.random.default_rng([seed, 2])
    num_photos = len(world.photos["train"])
    layouts = [sample_layout(rng, "train", num_photos) for _ in range(CORPUS_SCENES)]
    asked = [questions(layout, rng) for layout in layouts]
    return build_processor(corpus(layouts, asked, rng))


def _assemble(processor: LlavaProcessor, tower: DenseTower) -> LlavaForConditionalGeneration:
    tokenizer = processor.tokenizer
    config = llava_config(
        vocab_size=len(tokenizer),
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.tower.state_dict())
    return model
