import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from codefend.lab.baselines.purifiers import load_purifier
from codefend.lab.errors import LabError
from codefend.lab.train.bases import train_autoencoder, train_latent_base
from codefend.lab.train.command import app, tune_adapters
from codefend.lab.train.crops import CleanBatches
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.losses import LatentLoss, PurifierOptions
from codefend.lab.train.pairs import Pairs
from codefend.lab.train.purifier import PurifierTrainer
from codefend.lab.train.settings import PurifierRun
from codefend.lab.train.sources import PairSource
from codefend.lab.victims.victim import Victim
from codefend.lab.world.compose import World
from codefend.models.manifest import read_manifest, verify_weights
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_network import (
    build_autoencoder,
    build_latent_network,
    build_tiny_autoencoder,
)
from codefend.models.purifier.latent_step import Autoencoder, decode, encode
from tests.pictures_folder import draw_pictures

pytestmark = pytest.mark.slow

TINY = LoopSettings(num_steps=2, learning_rate=1e-3, warmup_steps=1, ema_decay=0.9, num_workers=0)


def smooth(num: int, side: int = 32) -> torch.Tensor:
    """(num, 3, side, side) uint8, coarse random colours."""
    coarse = torch.rand(num, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, side, mode="bilinear")
    return (images * 200 + 20).round().to(torch.uint8)


def source_of(
    victim: Victim, *, size: int = 4, batch_size: int = 8, through: float = 0.0
) -> PairSource:
    """Pairs whose attack is the same stripes on every image: easily learned."""
    clean = smooth(size)
    stripes = torch.zeros(32, 32, dtype=torch.uint8)
    stripes[:, ::4] = 16
    return PairSource(
        pairs=Pairs(clean, clean + stripes, torch.full((size,), 16 / 255)),
        extractor=victim,
        batch_size=batch_size,
        adversarial_share=through,
    )


@pytest.fixture(scope="module")
def base(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny latent base from the command's own functions, saved."""
    folder = tmp_path_factory.mktemp("base")
    autoencoder = train_autoencoder(
        CleanBatches(world, 2, 32, 0),
        folder,
        TINY,
        build_autoencoder(widths=(8, 16), latent_channels=4),
    )
    pipeline = train_latent_base(
        autoencoder,
        CleanBatches(world, 2, 32, 0),
        folder,
        TINY,
        build_latent_network(widths=(16, 16), num_layers=1, latent_channels=4, prompt_width=8),
    )
    pipeline.save_pretrained(folder / "latent-base")
    return folder / "latent-base"


class _SameImages:
    seed = 0

    def __init__(self) -> None:
        self.images = smooth(4, 16)

    def __getitem__(self, step: int) -> torch.Tensor:
        return self.images


@pytest.mark.parametrize(
    "fresh",
    [
        build_autoencoder(widths=(8, 16), latent_channels=4),
        build_tiny_autoencoder(width=8, num_halvings=1, num_blocks=1, latent_channels=4),
    ],
    ids=["full", "tiny"],
)
def test_an_autoencoder_learns_to_reconstruct(fresh: Autoencoder, tmp_path: Path) -> None:
    settings = LoopSettings(num_steps=150, learning_rate=1e-2, warmup_steps=5, num_workers=0)
    images = smooth(4, 16).float() / 255

    def error(autoencoder: Autoencoder) -> float:
        with torch.no_grad():
            decoded = decode(autoencoder, encode(autoencoder, images))
        return float((decoded - images).abs().mean())

    before = error(fresh)
    trained = train_autoencoder(_SameImages(), tmp_path, settings, fresh)
    assert error(trained) < 0.5 * before
    with torch.no_grad():
        latents = encode(trained, images)
    assert abs(float(latents.std()) - 1) < 0.05
    assert abs(float(latents.mean())) < 0.05


def test_only_adapters_are_trained_and_kept_and_a_run_resumes(
    base: Path, victim: Victim, world: World, tmp_path: Path
) -> None:
    pipeline, _ = load_purifier(base)
    assert isinstance(pipeline, LatentPurificationPipeline)
    kernel = pipeline.unet.conv_in.weight.detach().clone()
    options = PurifierOptions(rank=2)
    sources = [source_of(victim), source_of(victim, batch_size=4, through=0.25)]
    trainer = PurifierTrainer(sources, world, tmp_path, TINY)
    adapters = trainer.train_latent(pipeline, options)
    learned = {n: p.detach().clone() for n, p in adapters.named_parameters() if "lora_" in n}
    assert any(bool(p.abs().sum() > 0) for n, p in learned.items() if "lora_B" in n)
    assert torch.equal(pipeline.unet.conv_in.weight, kernel)
    kept = torch.load(tmp_path / "latent-purifier.pt", weights_only=True)
    assert sum(v.numel() for v in kept["module"].values()) == sum(
        p.numel() for p in learned.values()
    )
    again, _ = load_purifier(base)
    assert isinstance(again, LatentPurificationPipeline)
    resumed = trainer.train_latent(again, options)
    for name, parameter in resumed.named_parameters():
        if "lora_" in name:
            assert torch.equal(parameter, learned[name])


@pytest.mark.parametrize(
    "weights",
    [
        {"pixel_weight": 0.0, "feature_weight": 0.0},
        {"latent_weight": 0.0, "feature_weight": 0.0},
        {"latent_weight": 0.0, "pixel_weight": 0.0, "feature_weight": 1.0},
    ],
)
def test_every_part_of_the_loss_teaches(
    victim: Victim, world: World, tmp_path: Path, weights: dict[str, float]
) -> None:
    pipeline = LatentPurificationPipeline.tiny()
    settings = LoopSettings(num_steps=30, learning_rate=2e-2, warmup_steps=1, num_workers=0)
    options = PurifierOptions(noise_level=0.2, rank=4, **weights)
    loss = LatentLoss(pipeline, torch.float32, options)
    source = source_of(victim, batch_size=4)

    def measured() -> float:
        torch.manual_seed(5)
        clean, attacked = source.batch(0, world, np.random.default_rng(9))
        with torch.no_grad():
            return float(loss(source, clean.float() / 255, attacked.float() / 255)[0])

    before = measured()
    PurifierTrainer([source], world, tmp_path, settings).train_latent(pipeline, options)
    assert measured() < 0.9 * before


def test_what_is_not_weighed_is_not_computed(base: Path, victim: Victim, world: World) -> None:
    pipeline, _ = load_purifier(base)
    assert isinstance(pipeline, LatentPurificationPipeline)
    source = source_of(victim)
    clean, attacked = source.batch(0, world, np.random.default_rng(0))
    figures = {}
    for pixel_weight, feature_weight in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        options = PurifierOptions(pixel_weight=pixel_weight, feature_weight=feature_weight)
        loss = LatentLoss(pipeline, torch.float32, options)
        _, found = loss(source, clean.float() / 255, attacked.float() / 255)
        figures[pixel_weight, feature_weight] = set(found)
    assert figures == {
        (0.0, 0.0): {"latents"},
        (1.0, 0.0): {"latents", "psnr"},
        (0.0, 1.0): {"latents", "psnr", "features"},
    }


def test_adapters_are_published_listed_and_loaded(
    base: Path, victim: Victim, world: World, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    options = PurifierOptions(rank=2, noise_level=0.07)
    run = PurifierRun(kind="latent", base=str(base), weights=weights, version="3", options=options)
    tune_adapters(run, PurifierTrainer([source_of(victim)], world, tmp_path, TINY))
    (entry,) = read_manifest(weights)
    assert entry.name == "latent-purifier"
    assert not list(verify_weights(entry, weights))
    settings = json.loads((weights / "latent-purifier" / "purifier.json").read_text())
    assert (settings["noise_level"], settings["version"]) == (0.07, "3")
    loaded, sha256 = load_purifier(weights / "latent-purifier")
    assert (loaded.config.noise_level, loaded.config.version) == (0.07, "3")
    assert loaded.purify(torch.rand(1, 3, 40, 24)).shape == (1, 3, 40, 24)
    assert sha256 != load_purifier(base)[1]


def test_a_base_or_pairs_that_do_not_suit_are_named(
    base: Path, victim: Victim, world: World, tmp_path: Path
) -> None:
    def tune(base: str, source: PairSource) -> None:
        options = PurifierOptions(rank=2)
        run = PurifierRun(kind="latent", base=base, weights=tmp_path, options=options)
        tune_adapters(run, PurifierTrainer([source], world, tmp_path, TINY))

    with pytest.raises(LabError, match="no latent base"):
        tune(str(tmp_path / "missing"), source_of(victim))
    odd = torch.zeros(2, 3, 30, 30, dtype=torch.uint8)
    source = PairSource(pairs=Pairs(odd, odd, torch.zeros(2)), extractor=victim, batch_size=8)
    with pytest.raises(LabError, match="multiples of 4"):
        tune(str(base), source)


@pytest.mark.parametrize(
    "options",
    [
        {"noise_level": 0.0},
        {"pixel_weight": -1.0},
        {"latent_weight": 0.0, "pixel_weight": 0.0, "feature_weight": 0.0},
    ],
)
def test_options_that_teach_nothing_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PurifierOptions(**options)


def test_the_commands_train_a_base_and_adapters(
    world_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole command lines, with the networks that ship and as few steps as there can be."""
    monkeypatch.chdir(tmp_path)
    common = f"--world {world_file} --num-workers 0 --weights out"
    made = CliRunner().invoke(
        app,
        f"latent-base {common} --autoencoder-steps 1 --steps 1 --batch-size 2 --crop-px 32",
    )
    assert made.exit_code == 0, made.output
    clean = smooth(2, 32).permute(0, 2, 3, 1).numpy()
    Path("pairs").mkdir()
    np.savez("pairs/pairs-00000.npz", clean=clean, attacked=clean, epsilon=np.zeros(2, np.float32))
    tuned = CliRunner().invoke(
        app,
        f"purifier --kind latent {common} --base out/latent-base --pairs pairs --rank 2 "
        "--victim efficientnet-lite0 --steps 1 --batch-size 2",
    )
    assert tuned.exit_code == 0, tuned.output
    assert {entry.name for entry in read_manifest(Path("out"))} == {
        "latent-base",
        "latent-purifier",
    }
    pipeline, _ = load_purifier(Path("out/latent-purifier"))
    assert type(pipeline) is LatentPurificationPipeline
    assert pipeline.config.noise_level == 0.1
    draw_pictures(Path("pictures"), 12)
    own = CliRunner().invoke(
        app,
        "purifier --kind latent --num-workers 0 --weights own --base out/latent-base --pairs pairs "
        "--rank 2 --victim efficientnet-lite0 --steps 1 --batch-size 8 --data pictures --runs own",
    )
    assert own.exit_code == 0, own.output  # there is no world here: crops are of one's own pictures
