from pathlib import Path

import numpy as np
import pytest
import torch

from codefend.lab.world.compose import World
from codefend.lab.world.language import questions
from codefend.lab.world.layout import KINDS, SPLITS, sample_layout
from codefend.lab.world.scenes import scene_batch, scenes


def test_a_scene_depends_on_its_seed_and_number_alone(world: World) -> None:
    together = scenes("train", 6, 3, world)
    alone = scenes("train", 1, 3, world, start=4)[0]
    assert np.array_equal(together[4].image, alone.image)
    assert together[4].questions == alone.questions
    assert not np.array_equal(alone.image, scenes("train", 1, 4, world, start=4)[0].image)


def test_pairs_of_kinds_never_cross_splits() -> None:
    rng = np.random.default_rng(0)
    seen: dict[str, set[frozenset[str]]] = {}
    for split in SPLITS:
        layouts = [sample_layout(rng, split, 3) for _ in range(1500)]
        seen[split] = {
            frozenset((a.name, b.name))
            for layout in layouts
            for a in layout.objects
            for b in layout.objects
            if a.name < b.name
        }
    assert all(len(pairs) > 50 for pairs in seen.values())
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_between_a_tenth_and_a_third_of_scenes_carry_a_word() -> None:
    rng = np.random.default_rng(1)
    rate = np.mean([sample_layout(rng, "train", 3).sign is not None for _ in range(2000)])
    assert 0.1 <= rate <= 0.3


def test_labels_mark_the_objects_where_the_layout_says(world: World) -> None:
    batch = scene_batch(world, "train", range(24), seed=0)
    for labels, layout in zip(batch.labels, batch.layouts, strict=True):
        names = {world.class_names[index] for index in labels.unique()} - {"background"}
        assert names >= {placed.name for placed in layout.objects[-1:]}
        for placed in layout.objects:
            rows, columns = np.nonzero(labels.numpy() == world.class_names.index(placed.name))
            if len(rows) > 50:
                assert abs(columns.mean() / 128 - placed.x) < 0.2
                assert abs(rows.mean() / 128 - placed.y) < 0.2


def test_every_answer_follows_from_the_layout(world: World) -> None:
    names = {kind.name for kind in KINDS}
    for scene in scenes("test", 200, 0, world):
        by_kind = {question.kind: question for question in scene.questions}
        assert len(scene.captions) == 5
        assert all(name in scene.captions[0] for name in scene.objects)
        exists = by_kind["exists"]
        asked = next(name for name in names if name in exists.question.replace("?", "").split())
        assert exists.answer == ("yes" if asked in scene.objects else "no")
        if (
            "objects are there" in by_kind["count"].question
            and "not" not in by_kind["count"].question
        ):
            assert by_kind["count"].answer == ("zero", "one", "two", "three")[len(scene.objects)]
        if scene.layout.sign is None and "sign" in by_kind:
            assert by_kind["sign"].answer == "i cannot tell"


def test_few_sign_questions_are_asked_where_no_sign_can_be_read() -> None:
    rng = np.random.default_rng(2)
    asked = [questions(sample_layout(rng, "train", 3), rng) for _ in range(2000)]
    signs = [question.answer for group in asked for question in group if question.kind == "sign"]
    assert len(signs) > 400
    assert 0.1 < np.mean([answer == "i cannot tell" for answer in signs]) < 0.4


@pytest.mark.parametrize("size_px", [128, 200, 256])
def test_scenes_come_in_the_size_asked_for(world: World, size_px: int) -> None:
    batch = scene_batch(world, "train", range(2), seed=0, size_px=size_px)
    assert batch.images.shape == (2, 3, size_px, size_px)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_composes_the_same_scenes(world: World, world_file: Path) -> None:
    there = World(world_file, device="cuda")
    expected, composed = (scene_batch(w, "train", range(32), seed=3) for w in (world, there))
    assert composed.images.device.type == composed.labels.device.type == "cuda"
    difference = (expected.images.int() - composed.images.cpu().int()).abs()
    assert difference.max() <= 1
    assert (expected.labels != composed.labels.cpu()).float().mean() < 1e-3
