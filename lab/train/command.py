"""``codefend-lab train``: the embedded MLLM, bases, pairs, purifiers and the detector.

Every command takes one settings model, resumes, and publishes what it trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.detection.scoring import SuspicionScorer, calibrate
from codefend.lab.encoders.encoder import load_encoder
from codefend.lab.errors import LabError, no_weights
from codefend.lab.experiments.settings import add_command
from codefend.lab.experiments.store import digest_of
from codefend.lab.train.bases import train_autoencoder, train_base, train_latent_base
from codefend.lab.train.crops import CleanBatches
from codefend.lab.train.detector import calibration_images, make_examples, train_detector
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.losses import PurifierOptions
from codefend.lab.train.mllm import (
    DenseTower,
    OtherLanguage,
    SceneNumbers,
    train_mllm,
    train_vision,
)
from codefend.lab.train.online import OnlineSource
from codefend.lab.train.pictures import Photographs, PictureMix
from codefend.lab.train.publish import (
    pack_published,
    publish_adapters,
    publish_detector,
    publish_latent,
    publish_mllm,
    publish_purifier,
    publish_ranges,
)
from codefend.lab.train.purifier import PurifierTrainer
from codefend.lab.train.settings import (
    VARIANTS,
    AblationsRun,
    BaseRun,
    DetectorRun,
    LatentBaseRun,
    MllmRun,
    PairsRun,
    PhotographsRun,
    PurifierKind,
    PurifierRun,
    RecipeRun,
)
from codefend.lab.train.sources import (
    PairOrder,
    TrainingData,
    load_pair_source,
    make_pairs_of,
    make_pairs_together,
)
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.mllm.architecture import ARCHITECTURES
from codefend.models.packed import unpacked
from codefend.models.purifier.adapters import AdapterSettings
from codefend.models.purifier.loading import load_latent_purifier
from codefend.models.purifier.pipeline import PurificationPipeline

__all__ = ["ablations", "app", "pairs", "photographs", "purifier", "recipe", "tune_adapters"]


def purifier(run: PurifierRun) -> None:
    """Trains and publishes a purifier of either kind.

    Raises:
        LabError: There is no such base, or the pairs do not suit it.
    """
    is_latent = run.kind is PurifierKind.LATENT
    if is_latent and run.options.compiled:
        raise LabError("--compiled is for pixel networks")
    if not is_latent:
        _require_base(Path(run.base))
    texts = [f"{run.victim}={run.pairs},{run.batch_size}", *run.beside]
    trainer = PurifierTrainer(
        [load_pair_source(text, run.batch_size, **dict(run.shares)) for text in texts],
        TrainingData(run.world, run.data).photos(),
        run.runs,
        _warmed_up(run.loop, 200),
        run.seed,
    )
    if is_latent:
        tune_adapters(run, trainer)
    else:
        _tune_pixels(trainer, Path(run.base), run.options, run.version, run.weights)


def _tune_pixels(
    trainer: PurifierTrainer, base: Path, options: PurifierOptions, version: str, weights: Path
) -> None:
    start = PurificationPipeline.from_pretrained(unpacked(base), dtype=torch.float32).unet
    network = trainer.train_pixel(start, options)
    publish_purifier(
        network,
        name="purifier",
        version=version,
        noise_level=options.noise_level,
        weights=weights,
    )


def tune_adapters(run: PurifierRun, trainer: PurifierTrainer) -> None:
    """Tunes adapters on a latent base and publishes them as ``latent-purifier``.

    Raises:
        LabError: There is no such base, or the pairs do not suit it.
    """
    try:
        pipeline = load_latent_purifier(run.base, autoencoder=run.autoencoder)
    except (OSError, ValueError) as error:
        raise LabError(f"no latent base in {run.base}: {error}") from error
    try:
        adapters = trainer.train_latent(pipeline, run.options)
    except ValueError as error:
        raise LabError(str(error)) from error
    settings = AdapterSettings(
        noise_level=run.options.noise_level, version=run.version, autoencoder=run.autoencoder
    )
    publish_adapters(adapters, pipeline, base=run.base, settings=settings, weights=run.weights)


def _require_base(base: Path) -> None:
    if not base.exists():
        raise no_weights(base, "no base", "make it with: codefend-lab train base")


def _warmed_up(loop: LoopSettings, most_steps: int) -> LoopSettings:
    """A warm-up of a tenth of all steps, or of ``most_steps``."""
    return loop.replace(warmup_steps=max(1, min(most_steps, loop.num_steps // 10)))


def recipe(run: RecipeRun) -> None:
    """Makes pairs, trains on them and publishes.

    Raises:
        LabError: A source means nothing, or there is no base.
    """
    orders = [PairOrder.parse(text) for text in run.source]
    _require_base(run.base)
    data = TrainingData(run.world)
    making = run.making.replace(seed=run.seed)
    make_pairs_together(orders, run.runs, data, making, processes=run.processes)
    texts = [f"{o.victim}={o.folder(run.runs)},{o.batch_size}" for o in orders]
    main = orders[0].batch_size
    trainer = PurifierTrainer(
        [load_pair_source(text, main, **dict(run.shares)) for text in texts],
        data.photos(),
        run.runs,
        _warmed_up(run.loop, 200),
        run.seed,
    )
    _tune_pixels(trainer, run.base, run.options, run.version, run.weights)


def photographs(run: PhotographsRun) -> None:
    """Trains and publishes a purifier of photographs, scenes and text."""
    scenes = World(run.world)
    found = Photographs.find([run.packages], only=set(scenes.photo_paths["train"])).paths
    if run.photos:
        found += Photographs.find(run.photos).paths
    mix = PictureMix(
        world=scenes,
        photographs=Photographs(found),
        size_px=run.size_px,
        batch_size=run.batch_size,
        leaves_share=run.leaves_share,
        seed=run.seed,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    frozen = [load_encoder(name, device=device, folder=run.encoders_from) for name in run.encoders]
    shares = dict(run.shares)
    stored = [load_pair_source(text, run.batch_size, **shares) for text in run.beside]
    trainer = PurifierTrainer(
        [OnlineSource(mix, frozen, run.online), *stored],
        scenes,
        run.runs,
        _warmed_up(run.loop, 50),
        run.seed,
    )
    options = run.options.replace(feature_weight=run.online.feature_weight)
    _tune_pixels(trainer, run.start_from, options, run.version, run.weights)


def ablations(run: AblationsRun) -> None:
    """Trains the variants one after another."""
    shared = run.model_dump(exclude={"variants", "runs"})
    for name in run.variants:
        if name not in VARIANTS:
            raise typer.BadParameter(f"{name} is none of {', '.join(VARIANTS)}")
        own = {"runs": run.runs / name, "weights": run.runs / name, "version": name}
        photographs(PhotographsRun.model_validate({**shared, **own, **VARIANTS[name]}))


def mllm(run: MllmRun) -> None:
    """Trains and publishes an embedded MLLM."""
    known = ", ".join(ARCHITECTURES)
    if run.architecture not in ARCHITECTURES:
        raise LabError(f"unknown architecture {run.architecture}; known: {known}")
    folder, scenes = run.runs / run.name, World(run.world)
    if run.language_model is not None:
        tower = run.start_from or WEIGHTS_DIRECTORY / "mllm"
        start: DenseTower | Path | OtherLanguage = OtherLanguage(tower, run.language_model)
    else:
        start = run.start_from or _train_tower(run, scenes, folder)
    model, processor = train_mllm(
        scenes,
        start,
        folder,
        run.loop,
        numbers=SceneNumbers(run.batch_size * 3 // 4, run.num_scenes),
        seed=run.seed,
    )
    publish_mllm(model, processor, name=run.name, weights=run.weights)


def _train_tower(run: MllmRun, scenes: World, folder: Path) -> DenseTower:
    return train_vision(
        scenes,
        ARCHITECTURES[run.architecture],
        folder,
        run.tower.replace(num_workers=run.loop.num_workers),
        numbers=SceneNumbers(run.batch_size, run.num_scenes),
        seed=run.seed,
    )


def base(run: BaseRun) -> None:
    """Trains and publishes a base in pixels."""
    batches = CleanBatches(World(run.world), run.batch_size, run.crop_px, run.seed)
    network = train_base(batches, run.runs, run.loop)
    publish_purifier(network, name="base", version="1", noise_level=0.1, weights=run.weights)


def latent_base(run: LatentBaseRun) -> None:
    """Trains and publishes what stands for Stable Diffusion."""
    batches = CleanBatches(World(run.world), run.batch_size, run.crop_px, run.seed)
    shared = {"learning_rate": run.loop.learning_rate, "num_workers": run.loop.num_workers}
    autoencoder = train_autoencoder(batches, run.runs, run.autoencoder.replace(**shared))
    pipeline = train_latent_base(autoencoder, batches, run.runs, run.loop)
    publish_latent(pipeline, name="latent-base", weights=run.weights)


def pairs(run: PairsRun) -> None:
    """Makes pairs."""
    data = TrainingData(run.world, run.data, run.size_px)
    make_pairs_of(run.victim, run.out, data, run.making)


def detector(run: DetectorRun) -> None:
    """Makes examples, trains, calibrates and publishes a detector."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    defence = purifying("purifier", *load_purifier(run.purifier, device=device))
    scenes = World(run.world)
    examples = make_examples(
        run.pairs,
        scenes,
        defence,
        run.runs / f"detector-examples-{digest_of(defence.setting)}",
        num_crops=run.num_crops,
        seed=run.seed,
    )
    network = train_detector(examples, run.runs, run.loop, batch_size=run.batch_size, seed=run.seed)
    images = calibration_images(scenes, run.num_calibration, seed=run.seed)
    calibrate(SuspicionScorer(network, defence), *images, seed=run.seed)
    publish_detector(network, weights=run.weights)


_WORLD, _PURIFIER = Path("work/world.npz"), WEIGHTS_DIRECTORY / "purifier"

app = typer.Typer(
    no_args_is_help=True, help="Train purifiers, detectors, models; every command resumes."
)


add_command(app, "ablations", AblationsRun, ablations)


add_command(app, "base", BaseRun, base)


add_command(app, "detector", DetectorRun, detector)


add_command(app, "latent-base", LatentBaseRun, latent_base)


add_command(app, "mllm", MllmRun, mllm)


add_command(app, "pairs", PairsRun, pairs)


add_command(app, "photographs", PhotographsRun, photographs)


add_command(app, "purifier", PurifierRun, purifier)


add_command(app, "recipe", RecipeRun, recipe)


@app.command("ranges")
def ranges(
    purifier: Annotated[Path, typer.Argument(help="Its directory.")] = WEIGHTS_DIRECTORY
    / "purifier",
    *,
    world: Annotated[Path, typer.Option(help="World file from `data build`.")] = Path(
        "work/world.npz"
    ),
    num: Annotated[int, typer.Option(min=12, help="Pictures.")] = 384,
    seed: Annotated[int, typer.Option(help="Of pictures and noise.")] = 0,
) -> None:
    """Measure what a purifier's convolutions read, for CPUs that run them in 8-bit integers."""
    try:
        publish_ranges(purifier, World(world), num, seed)
    except (OSError, ValueError) as error:
        raise LabError(f"{purifier}: {error}") from error


@app.command("pack")
def pack_weights(
    name: Annotated[str, typer.Argument(help="Of weights that the manifest lists.")],
    *,
    int8: Annotated[bool, typer.Option(help="Round matrices to 8 bits; else exactly.")] = False,
    weights: Annotated[Path, typer.Option(help="Folder of the manifest.")] = WEIGHTS_DIRECTORY,
) -> None:
    """Store weights in fewer bytes; they are unpacked into a cache when they are first loaded."""
    pack_published(name, to_int8=int8, weights=weights)
