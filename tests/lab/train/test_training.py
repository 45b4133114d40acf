import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

import codefend.lab.train.pairs
from codefend.lab.errors import LabError
from codefend.lab.train.bases import train_base
from codefend.lab.train.command import purifier
from codefend.lab.train.crops import CleanBatches, text_crops
from codefend.lab.train.loop import LoopSettings, captured, train_loop
from codefend.lab.train.losses import PurifierOptions, attack_through
from codefend.lab.train.mllm import SceneNumbers, patch_labels, train_mllm, train_vision
from codefend.lab.train.pairs import (
    GOALS,
    Pairs,
    PairSettings,
    load_pairs,
    make_pairs,
    make_photo_pairs,
)
from codefend.lab.train.publish import publish_mllm, publish_purifier
from codefend.lab.train.purifier import PurifierTrainer
from codefend.lab.train.settings import PurifierRun
from codefend.lab.train.sources import PairSource
from codefend.lab.victims.classifier import HELD_OUT, TRAINING_CLASSIFIER, load_classifier
from codefend.lab.victims.victim import Victim, load_victim
from codefend.lab.world.compose import World
from codefend.models.manifest import read_manifest, verify_weights
from codefend.models.mllm.architecture import Architecture
from codefend.models.purifier.network import build_network
from codefend.models.purifier.pipeline import PurificationPipeline

pytestmark = pytest.mark.slow

TWO = PairSettings(num_pairs=2, steps=1, batch_size=2)
SIX = PairSettings(num_pairs=6, steps=1, batch_size=2)
TINY = LoopSettings(num_steps=2, learning_rate=1e-3, warmup_steps=1, ema_decay=0.9, num_workers=0)


class _Line:
    """y = 2 x, seen at a point that the step decides."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, step: int) -> torch.Tensor:
        self.asked.append(step)
        return torch.full((4, 1), float(step % 7 - 3))


def test_the_loop_takes_gradients_that_are_already_there(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)

    def loss_of(batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        loss = (model(batch) - 2 * batch).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), {}

    settings = LoopSettings(num_steps=150, learning_rate=0.05, warmup_steps=1, num_workers=0)
    train_loop(model, _Line(), loss_of, settings, checkpoint=tmp_path / "x.pt", label="line")
    assert abs(float(model.weight.detach()) - 2) < 0.1


def _fit(model: nn.Module, batches: _Line, checkpoint: Path, num_steps: int) -> None:
    settings = LoopSettings(num_steps=num_steps, learning_rate=0.05, warmup_steps=1, num_workers=0)

    def loss_of(batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        return (model(batch) - 2 * batch).square().mean(), {}

    train_loop(model, batches, loss_of, settings, checkpoint=checkpoint, label="line")


def test_the_loop_learns_and_resumes_where_it_stopped(tmp_path: Path) -> None:
    model, batches = nn.Linear(1, 1), _Line()
    _fit(model, batches, tmp_path / "line.pt", 150)
    assert abs(float(model.weight.detach()) - 2) < 0.1
    resumed, more = nn.Linear(1, 1), _Line()
    _fit(resumed, more, tmp_path / "line.pt", 160)
    assert more.asked == list(range(150, 160))
    assert abs(float(resumed.weight.detach()) - 2) < 0.1


def test_settings_that_cannot_train_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps"):
        LoopSettings(num_steps=0, learning_rate=1e-3)


def test_a_patch_belongs_to_what_covers_it_enough() -> None:
    labels = torch.zeros(1, 128, 128, dtype=torch.uint8)
    labels[0, :16, :8] = 5
    labels[0, 16:32, :2] = 6
    patches = patch_labels(labels, 10).view(8, 8)
    assert patches[0, 0] == 5
    assert patches[1, 0] == 0


def test_a_finite_set_of_scenes_comes_again() -> None:
    assert [list(SceneNumbers(2, 3)[step]) for step in range(3)] == [[0, 1], [2, 0], [1, 2]]
    assert list(SceneNumbers(2)[5]) == [10, 11]


def test_pairs_keep_their_bound_resume_and_load(
    world: World, victim: Victim, tmp_path: Path
) -> None:
    make_pairs(world, victim, tmp_path, PairSettings(num_pairs=10, steps=1, batch_size=2))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    make_pairs(world, victim, tmp_path, PairSettings(num_pairs=10, steps=1, batch_size=2))
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    pairs = load_pairs(tmp_path)
    difference = (pairs.clean.int() - pairs.attacked.int()).abs().amax((1, 2, 3))
    assert len(difference) == 10
    assert torch.all(difference > 0)
    assert torch.all(difference <= pairs.epsilon * 255)


def test_shares_of_the_pairs_make_the_whole(world: World, victim: Victim, tmp_path: Path) -> None:
    for part in range(2):
        make_pairs(world, victim, tmp_path / "both", SIX.replace(share=(part, 2)))
    make_pairs(world, victim, tmp_path / "one", SIX)
    both, one = load_pairs(tmp_path / "both"), load_pairs(tmp_path / "one")
    assert torch.equal(both.attacked, one.attacked)


def test_an_attack_through_the_purifier_climbs_and_keeps_each_radius() -> None:
    clean = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    clean = (clean * 255).round() / 255
    epsilon = torch.tensor([2 / 255, 8 / 255])
    attacked = attack_through(
        clean, clean, epsilon, lambda images: images.mean(dim=(1, 2, 3)), steps=4
    )
    levels = ((attacked - clean) * 255).round()
    assert levels.amin() == 0
    assert levels.amax(dim=(1, 2, 3)).tolist() == [2, 8]


@pytest.mark.parametrize("shares", [{"adversarial_share": 0.8}, {"clean_share": -0.1}])
def test_shares_that_do_not_fit_are_refused(victim: Victim, shares: dict[str, float]) -> None:
    none = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    pairs = Pairs(none, none, torch.zeros(0))
    with pytest.raises(ValueError, match="shares"):
        PairSource(pairs=pairs, extractor=victim, batch_size=8, **shares)


def test_a_source_without_clean_images(world: World, victim: Victim) -> None:
    clean = torch.full((4, 3, 64, 64), 100, dtype=torch.uint8)
    pairs = Pairs(clean, clean + 10, torch.full((4,), 10 / 255))
    source = PairSource(pairs=pairs, extractor=victim, batch_size=8, clean_share=0, crop_share=0)
    wanted, attacked = source.batch(0, world, np.random.default_rng(0))
    assert torch.all((attacked.int() - wanted.int()).amax(dim=(1, 2, 3)) >= 5)


def test_a_source_keeps_its_shares_of_clean_images(world: World, victim: Victim) -> None:
    clean = torch.full((4, 3, 64, 64), 100, dtype=torch.uint8)
    pairs = Pairs(clean, clean + 10, torch.full((4,), 10 / 255))
    source = PairSource(pairs=pairs, extractor=victim, batch_size=16)
    wanted, attacked = source.batch(0, world, np.random.default_rng(0))
    moved = (attacked.int() - wanted.int()).amax(dim=(1, 2, 3))
    assert moved[:4].tolist() == [0] * 4
    assert torch.all((moved[4:14] >= 5) & (moved[4:14] <= 11))
    assert moved[14:].tolist() == [0] * 2


@pytest.mark.parametrize(
    ("beside", "complaint"),
    [
        ("models/weights/surrogate", "VICTIM=FOLDER,BATCH"),
        ("models/weights/surrogate=pairs", "VICTIM=FOLDER,BATCH"),
        ("models/weights/surrogate=pairs,0", "VICTIM=FOLDER,BATCH"),
        (f"{HELD_OUT}=pairs,8", TRAINING_CLASSIFIER),
    ],
)
def test_a_source_beside_that_cannot_be_is_refused(
    world: World, victim: Victim, tmp_path: Path, beside: str, complaint: str
) -> None:
    for folder in ("own", "pairs"):
        make_pairs(world, victim, tmp_path / folder, TWO)
    beside = beside.replace("=pairs", f"={tmp_path}/pairs")
    with pytest.raises(LabError, match=complaint):
        purifier(PurifierRun(pairs=tmp_path / "own", beside=(beside,), runs=tmp_path))


def test_a_classifier_in_training_reads_images_at_their_own_size() -> None:
    classifier = load_classifier(TRAINING_CLASSIFIER, resized=False)
    images = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    assert classifier.encoder_features(images).shape[1] == 3 * 2
    assert load_classifier(TRAINING_CLASSIFIER).encoder_features(images).shape[1] == 7 * 7


def test_a_step_without_a_gpu_is_left_as_it_is() -> None:
    def step(values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": values.sum()}

    assert captured(step, [torch.ones(2)]) is step


def test_nothing_is_trained_on_the_held_out_classifier(world: World, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="held out"):
        make_photo_pairs(world, load_classifier(HELD_OUT), tmp_path, TWO)


def test_text_crops_hold_ink_and_paper() -> None:
    crops = text_crops(6, 64, np.random.default_rng(0)).float()
    assert torch.all(crops.amax(dim=(1, 2, 3)) - crops.amin(dim=(1, 2, 3)) > 100)


def test_pairs_of_a_held_out_family_are_refused(
    world: World, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codefend.lab.train.pairs, "GOALS", dict.fromkeys(GOALS, "matching"))
    with pytest.raises(ValueError, match="held out"):
        make_pairs(world, victim, tmp_path, TWO)
    assert not list(tmp_path.glob("*.npz"))


def test_no_pairs_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="codefend-lab train pairs"):
        load_pairs(tmp_path)


@pytest.mark.parametrize("tower_kind", ["vit", "levit"])
def test_the_mllm_is_trained_published_and_loaded(
    world: World, tmp_path: Path, tower_kind: Literal["vit", "levit"]
) -> None:
    architecture = Architecture(
        tower=tower_kind, vision_width=32, vision_depth=1, text_width=32, text_depth=1
    )
    tower = train_vision(world, architecture, tmp_path, TINY, numbers=SceneNumbers(2))
    model, processor = train_mllm(world, tower, tmp_path, TINY, numbers=SceneNumbers(2))
    weights = tmp_path / "weights"
    weights.mkdir()
    publish_mllm(model, processor, name="mllm", weights=weights)
    assert load_victim(weights / "mllm").model.dtype == torch.float32
    again, _ = train_mllm(
        world, weights / "mllm", tmp_path / "more", TINY, numbers=SceneNumbers(2, 3), seed=1
    )
    assert again.num_parameters() == model.num_parameters()


def test_base_and_purifier_are_trained_and_published(
    world: World, victim: Victim, tmp_path: Path
) -> None:
    make_pairs(world, victim, tmp_path / "pairs", TWO)
    base = train_base(CleanBatches(world, 2, 64, 0), tmp_path, TINY)
    before = base.conv_out.weight.detach().clone()
    classifier = load_classifier(TRAINING_CLASSIFIER)
    make_photo_pairs(world, classifier, tmp_path / "photos", TWO)
    sources = [
        PairSource(
            pairs=load_pairs(tmp_path / "pairs"),
            extractor=victim,
            batch_size=8,
            adversarial_share=0.25,
        ),
        PairSource(
            pairs=load_pairs(tmp_path / "photos"), extractor=classifier, batch_size=8, weight=0.5
        ),
    ]
    trainer = PurifierTrainer(sources, world, tmp_path, TINY)
    network = trainer.train_pixel(base, PurifierOptions(adversarial_steps=1))
    assert not torch.equal(before, network.conv_out.weight)
    weights = tmp_path / "weights"
    weights.mkdir()
    publish_purifier(network, name="purifier", version="9", noise_level=0.03, weights=weights)
    (entry,) = read_manifest(weights)
    assert not list(verify_weights(entry, weights))
    loaded = PurificationPipeline.from_pretrained(weights / "purifier")
    assert loaded.config.noise_level == 0.03
    config = json.loads((weights / "purifier" / "model_index.json").read_text())
    assert config["version"] == "9"


def test_a_network_learns_to_denoise(tmp_path: Path) -> None:
    """A tiny network on one picture: the loss that base training uses must fall."""
    network = build_network(widths=(16, 16), num_layers=1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 4, 4, generator=generator)
    clean = nn.functional.interpolate(coarse, 32, mode="bilinear")
    pipeline = PurificationPipeline(network, noise_level=0.1)
    errors = []
    for _ in range(200):
        purified = pipeline.purify_with_gradient(clean, generator)
        loss = (purified - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert np.mean(errors[-5:]) < 0.5 * errors[0]
