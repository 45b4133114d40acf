"""The settings of every training command: its fields are the command's flags.

A pure declaration; ``codefend.lab.train.command`` does what they say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from codefend.lab.encoders.encoder import TRAINING_ENCODERS
from codefend.lab.encoders.releases import ENCODERS_FOLDER, RESNET
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.losses import PurifierOptions
from codefend.lab.train.online import OnlineOptions
from codefend.lab.train.pairs import PairSettings
from codefend.lab.victims.classifier import TRAINING_CLASSIFIER
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = [
    "VARIANTS",
    "AblationsRun",
    "BaseRun",
    "DetectorRun",
    "LatentBaseRun",
    "MllmRun",
    "PairsRun",
    "PhotographsRun",
    "PurifierKind",
    "PurifierRun",
    "RecipeRun",
    "TrainingRun",
]

RUNS = Path("work/runs")
LATENT_WEIGHTS = Path("work/latent")
PIXEL_BASE, MLLM = WEIGHTS_DIRECTORY / "base", str(WEIGHTS_DIRECTORY / "mllm")
LOOP_FLAGS = {
    "loop.num_steps": "steps",
    "loop.max_minutes": "minutes",
    "loop.learning_rate": "learning-rate",
    "loop.num_workers": "num-workers",
    "loop.ema_decay": "ema-decay",
    "loop.checkpoint_steps": "checkpoint-steps",
    "loop.stop_after": "stop-after",
}
PAIR_FLAGS = {
    "making.num_pairs": "num",
    "making.steps": "attack-steps",
    "making.share": "share",
    "making.seed": "seed",
}
_OPTION_FLAGS = {
    "options.noise_level": "noise-level",
    "options.feature_weight": "feature-weight",
    "options.adversarial_steps": "through-steps",
    "options.compiled": "compiled",
    "shares.adversarial_share": "through-share",
    "shares.clean_share": "clean-share",
    "shares.crop_share": "crop-share",
}


def _rejoined(given: Any) -> Any:
    """The command line splits values at commas, of which each of these has one."""
    if not isinstance(given, list | tuple):
        return given
    whole: list[str] = []
    for text in given:
        if "=" in text or not whole:
            whole.append(text)
        else:
            whole[-1] += f",{text}"
    return whole


SourceTexts = Annotated[tuple[str, ...], BeforeValidator(_rejoined)]
"""Texts such as ``VICTIM=FOLDER,BATCH``."""


class TrainingRun(RunSettings):
    """What every training has."""

    world: Path = Path("work/world.npz")
    """World file from `data build`."""
    runs: Path = RUNS
    """Folder of checkpoints."""
    weights: Path = WEIGHTS_DIRECTORY
    """Where finished weights go."""
    seed: int = 0
    """Of data, weights and noise."""


class PurifierKind(StrEnum):
    """Where a purifier works."""

    PIXEL = "pixel"
    LATENT = "latent"


class _FineTuningLoop(LoopSettings):
    num_steps: int = 3000
    learning_rate: float = 1e-3
    ema_decay: float | None = 0.996
    weight_decay: float = 0.0


class _Shares(RunSettings):
    adversarial_share: float = 0.0
    """Share of a batch attacked through the purifier itself."""
    clean_share: float = 0.25
    """Share of a batch not attacked."""
    crop_share: float = 0.125
    """Share that is clean crops of photos and text."""


class PurifierRun(TrainingRun):
    """Fine-tune the base on pairs: a pixel network whole, a latent one by LoRA adapters."""

    shortcuts: ClassVar[Mapping[str, str]] = {
        **LOOP_FLAGS,
        **_OPTION_FLAGS,
        "options.pixel_weight": "pixel-weight",
        "options.latent_weight": "latent-weight",
        "options.rank": "rank",
    }
    preset_field: ClassVar[str] = "kind"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        PurifierKind.LATENT: {
            "weights": LATENT_WEIGHTS,
            "base": str(LATENT_WEIGHTS / "latent-base"),
            "loop": {"learning_rate": 1e-4},
            "options": {"noise_level": 0.1},
        }
    }

    kind: PurifierKind = PurifierKind.PIXEL
    """latent tunes LoRA adapters on Stable Diffusion: then from work/latent/latent-base to
    work/latent, at a peak rate of 1e-4 and t* of 0.1, where nothing else is said."""
    data: str = ""
    """Folder of images, or an id of the datasets package, whose crops nobody attacks."""
    pairs: Path = RUNS / "pairs"
    """Folder of pairs."""
    victim: str = MLLM
    """Model directory or hub id that they were made on."""
    batch_size: int = 16
    """Images a step."""
    beside: SourceTexts = ()
    """Learn from these pairs too: VICTIM=FOLDER,BATCH; may be repeated."""
    shares: _Shares = _Shares()
    """What a batch is made of."""
    base: str = str(PIXEL_BASE)
    """Pipeline to start from; of a latent one, or a hub id."""
    autoencoder: str | None = None
    """Latent: a tiny one, say, for the base's own; directory or hub id."""
    loop: _FineTuningLoop = _FineTuningLoop()
    """How long and how fast."""
    options: PurifierOptions = PurifierOptions()
    """What is minimised."""
    version: str = "1"
    """Name of this training."""


class _RecipeLoop(_FineTuningLoop):
    num_steps: int = 8000
    max_minutes: float = 25.0


class _RecipeShares(_Shares):
    adversarial_share: float = 0.35
    clean_share: float = 0.125


class _RecipeOptions(PurifierOptions):
    noise_level: float = 0.08
    feature_weight: float = 0.2


class _RecipePairs(PairSettings):
    batch_size: int = 128


class RecipeRun(TrainingRun):
    """Make the shipped purifier, pairs and all, in one command that resumes; for one GPU.

    Scenes are composed where they are attacked; further processes attack them together.
    """

    shortcuts: ClassVar[Mapping[str, str]] = {
        **LOOP_FLAGS,
        **_OPTION_FLAGS,
        "making.steps": "attack-steps",
        "making.batch_size": "attack-batch",
    }

    source: SourceTexts = (
        f"{MLLM}=24576,96",
        f"{WEIGHTS_DIRECTORY / 'surrogate'}=12288,64",
        f"{TRAINING_CLASSIFIER}=12288,64",
    )
    """VICTIM=PAIRS,BATCH: pairs to make and images a step; may be repeated."""
    runs: Path = Path("work/recipe")
    """Folder of pairs and checkpoints."""
    base: Path = PIXEL_BASE
    """Pipeline to start from."""
    processes: int = Field(max(1, len(os.sched_getaffinity(0)) * 3 // 4), ge=1)
    """That make pairs together; three quarters of the cores unless told."""
    making: _RecipePairs = _RecipePairs()
    """How pairs are made; each source has its own number of them."""
    shares: _RecipeShares = _RecipeShares()
    """What a batch is made of."""
    loop: _RecipeLoop = _RecipeLoop()
    """How long and how fast."""
    options: _RecipeOptions = _RecipeOptions()
    """What is minimised."""
    version: str = "1"
    """Name of this training."""


class _PhotographsLoop(LoopSettings):
    num_steps: int = 200_000
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    ema_decay: float | None = 0.999
    num_workers: int = Field(1, ge=0)
    checkpoint_steps: int | None = Field(50, ge=1)


class PhotographsRun(TrainingRun):
    """Fine-tune a purifier on pictures of every kind that are attacked as it learns.

    Killed at any moment, moved to another folder or machine, it goes on from its checkpoint and
    ends with the same weights. At the size of one GPU:
    `codefend-lab train photographs --batch-size 128 --num-workers 12`.
    """

    shortcuts: ClassVar[Mapping[str, str]] = {
        **LOOP_FLAGS,
        **{f"online.{name}": name.replace("_", "-") for name in OnlineOptions.model_fields},
        "options.noise_level": "noise-level",
        "options.adversarial_steps": "through-steps",
        "options.compiled": "compiled",
        "shares.adversarial_share": "through-share",
    }

    runs: Path = Path("work/photographs")
    """Folder of the checkpoint: one file, resumed from."""
    weights: Path = Path("work/weights")
    """Where finished weights go."""
    packages: Path = Path("work/packages/photos")
    """Folder that the world's photographs were read from."""
    photos: tuple[Path, ...] = ()
    """Folders of more photographs; may be repeated."""
    start_from: Path = WEIGHTS_DIRECTORY / "purifier"
    """Purifier that training starts from."""
    encoders: tuple[str, ...] = (*TRAINING_ENCODERS, MLLM)
    """Attacked and learned from, in turns; also directories of MLLMs."""
    encoders_from: Path = ENCODERS_FOLDER
    """Folder of `data encoders`."""
    beside: SourceTexts = ()
    """Stored pairs too: VICTIM=FOLDER,BATCH; may be repeated."""
    shares: _Shares = _Shares()
    """What a batch of stored pairs is made of."""
    batch_size: int = 16
    """Pictures a step."""
    size_px: int = Field(128, multiple_of=32)
    """Side of a picture."""
    leaves_share: float = 0.125
    """Share that is dead leaves."""
    loop: _PhotographsLoop = _PhotographsLoop()
    """How long and how fast; the rate falls towards the last step."""
    online: OnlineOptions = OnlineOptions()
    """How pictures are attacked; stored pairs weigh features alike."""
    options: PurifierOptions = PurifierOptions()
    """What is minimised on stored pairs, and the level that is served."""
    version: str = "1"
    """Name of this training."""


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "no_leaves": {"leaves_share": 0.0},
    "one_encoder": {"encoders": (TRAINING_CLASSIFIER,)},
    "two_encoders": {"encoders": (TRAINING_CLASSIFIER, RESNET)},
    "fresh_noise": {"online": {"replayed": False}},
    "no_jpeg": {"online": {"jpeg_share": 0.0}},
    "from_base": {"start_from": PIXEL_BASE},
}
"""The recipe as a whole, then with one part left out or changed; settings of ``PhotographsRun``."""


class _AblationLoop(_PhotographsLoop):
    num_steps: int = 400
    ema_decay: float | None = 0.98
    num_workers: int = Field(0, ge=0)


class AblationsRun(RunSettings):
    """Train each variant of the recipe for equally few steps, with the same seed.

    `codefend-lab classify --network NAME=RUNS/NAME/purifier --defences NAME:0.05` compares.
    """

    shortcuts: ClassVar[Mapping[str, str]] = LOOP_FLAGS

    runs: Path = Path("work/ablations")
    """A folder for each variant; each resumes."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Names, comma-separated."""
    world: Path = TrainingRun.model_fields["world"].default
    """World file from `data build`."""
    packages: Path = PhotographsRun.model_fields["packages"].default
    """Folder that the world's photographs were read from."""
    batch_size: int = 16
    """Pictures a step."""
    size_px: int = 64
    """Side of a picture."""
    loop: _AblationLoop = _AblationLoop()
    """How long and how fast."""
    seed: int = 0
    """Of data, weights and noise."""


class _TowerLoop(LoopSettings):
    num_steps: int = 1350
    learning_rate: float = 2e-3
    ema_decay: float | None = 0.998


class _MllmLoop(_TowerLoop):
    num_steps: int = 1000
    learning_rate: float = 1.5e-3


class MllmRun(TrainingRun):
    """Train an embedded MLLM: first its tower on dense patch labels, then the whole."""

    shortcuts: ClassVar[Mapping[str, str]] = {
        **LOOP_FLAGS,
        "tower.num_steps": "vision-steps",
        "tower.max_minutes": "vision-minutes",
    }

    tower: _TowerLoop = _TowerLoop()
    """How its tower is trained."""
    loop: _MllmLoop = _MllmLoop()
    """How the whole is trained; its processes make batches for both."""
    batch_size: int = 64
    """Images a step."""
    architecture: str = "levit"
    """One of the known architectures."""
    num_scenes: int | None = None
    """Train on so many scenes over and over, not on ever new ones."""
    name: str = "mllm"
    """Folder of the finished weights."""
    start_from: Path | None = None
    """Train on this saved model; give another --seed then."""
    language_model: str | None = None
    """Put this one of others, a directory or hub id, behind the tower of --start-from, with LoRA:
    nobody here has taught it to obey."""


class _BaseLoop(LoopSettings):
    num_steps: int = 3000
    learning_rate: float = 1e-3
    ema_decay: float | None = 0.995
    weight_decay: float = 0.0


class BaseRun(TrainingRun):
    """Train the base diffusion model on clean photos and scenes."""

    shortcuts: ClassVar[Mapping[str, str]] = LOOP_FLAGS

    loop: _BaseLoop = _BaseLoop()
    """How long and how fast."""
    batch_size: int = 32
    """Images a step."""
    crop_px: int = 64
    """Side of the training crops."""


class _LatentBaseLoop(_BaseLoop):
    warmup_steps: int = 100


class LatentBaseRun(TrainingRun):
    """Train a small autoencoder and a latent network: they stand for Stable Diffusion."""

    shortcuts: ClassVar[Mapping[str, str]] = {
        **LOOP_FLAGS,
        "autoencoder.num_steps": "autoencoder-steps",
        "autoencoder.max_minutes": "autoencoder-minutes",
    }

    weights: Path = LATENT_WEIGHTS
    """Where finished weights go."""
    autoencoder: _LatentBaseLoop = _LatentBaseLoop()
    """How the autoencoder is trained; rate and processes are those of the network."""
    loop: _LatentBaseLoop = _LatentBaseLoop()
    """How the network is trained."""
    batch_size: int = 16
    """Images a step."""
    crop_px: int = 64
    """Side of the training crops."""


class PairsRun(RunSettings):
    """Attack training images on the victim and keep attacked and clean side by side.

    Scenes, or a folder's pictures, for an MLLM; crops of photos for efficientnet-lite0.
    """

    shortcuts: ClassVar[Mapping[str, str]] = {**PAIR_FLAGS, "making.batch_size": "batch-size"}

    world: Path = TrainingRun.model_fields["world"].default
    """World file from `data build`."""
    data: str = ""
    """Folder of images, or an id of the datasets package, instead of the embedded world."""
    size_px: int = 224
    """With --data: side that images are cut and scaled to."""
    out: Path = RUNS / "pairs"
    """Folder of the pairs."""
    victim: str = str(WEIGHTS_DIRECTORY / "mllm")
    """Model directory or hub id."""
    making: PairSettings = PairSettings()
    """How many pairs, and how."""


class _DetectorLoop(LoopSettings):
    num_steps: int = 2000
    learning_rate: float = 1e-3
    ema_decay: float | None = 0.99


class DetectorRun(TrainingRun):
    """Train the detector that stands behind a purifier, and calibrate it on clean images."""

    shortcuts: ClassVar[Mapping[str, str]] = LOOP_FLAGS

    pairs: tuple[Path, ...] = (RUNS / "pairs",)
    """Folders of pairs; may be repeated."""
    purifier: Path = WEIGHTS_DIRECTORY / "purifier"
    """The purifier that it will stand behind."""
    num_crops: int = 1024
    """Crops of photos and text beside them."""
    num_calibration: int = Field(1200, ge=600)
    """Clean images of the calibration."""
    loop: _DetectorLoop = _DetectorLoop()
    """How long and how fast."""
    batch_size: int = 64
    """Windows a step, half of them attacked."""
