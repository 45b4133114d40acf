"""``codefend-lab attack``: attacks the gallery or a folder of images and writes PNG files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from PIL import Image
from pydantic_settings import CliPositionalArg

from codefend.lab.attacks.interface import Goal
from codefend.lab.attacks.registry import ATTACKS, AttackConfig
from codefend.lab.attacks.scenes import attack_scenes
from codefend.lab.errors import LabError
from codefend.lab.experiments.settings import RunSettings, add_command
from codefend.lab.gallery.scenes import entry_truths
from codefend.lab.progress import progress
from codefend.lab.victims.dialogue import CAPTION_REQUEST, Dialogue
from codefend.lab.victims.generate import generate
from codefend.lab.victims.victim import Victim, load_victim
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = ["AttackRun", "register"]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


class AttackRun(RunSettings):
    """Attack images against a victim; those already in OUT are left alone.

    A gallery is attacked on its captions and answers, a folder's images on what the victim says of
    them now; towards a target, the goal is the language model's loss.
    """

    source: CliPositionalArg[Path]
    """A gallery's scenes.json, or a folder."""
    out: CliPositionalArg[Path]
    """Folder of the attacked images."""
    victim: str = str(WEIGHTS_DIRECTORY / "mllm")
    """Model directory or hub id."""
    attack: str = "apgd"
    """Name of the attack."""
    goal: Goal = "margin"
    """What is attacked."""
    epsilon: int = 8
    """l-infinity radius in levels of 255; idle where that is no bound."""
    steps: int = 100
    """Attack steps."""
    target: str = ""
    """Caption to head for; away from the truth where empty."""
    seed: int = 0
    """Of random starts."""

    def config(self) -> AttackConfig:
        """The attack, as reports identify it."""
        is_ball = self.attack not in ATTACKS or ATTACKS[self.attack].is_ball
        return AttackConfig(
            name=self.attack,
            epsilon=self.epsilon / 255 if is_ball else 1.0,
            steps=self.steps,
            goal="language" if self.target and self.goal == "margin" else self.goal,
            targeted=bool(self.target),
            seed=self.seed,
        )


def register(app: typer.Typer) -> None:
    """Adds the command to ``codefend-lab``."""
    add_command(app, "attack", AttackRun, attack)


def attack(run: AttackRun) -> None:
    """Attacks images and writes PNG files."""
    config, source = run.config(), run.source
    paths, truths = _read_gallery(source) if source.is_file() else (_images_below(source), None)
    loaded = load_victim(run.victim, device="cuda" if torch.cuda.is_available() else "cpu")
    run.out.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(progress(paths, desc=config.name, unit="image")):
        written = run.out / f"{path.stem}.png"
        if written.exists():
            continue
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        truth = truths[index] if truths else _own_words(loaded, pixels)
        (data,) = attack_scenes(config, loaded, [pixels], [truth], [run.target])
        partial = written.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(written)
    typer.echo(f"{len(paths)} attacked images in {run.out}")


def _read_gallery(file: Path) -> tuple[list[Path], list[list[Dialogue]]]:
    """Clean images of a gallery, and their truths."""
    try:
        entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        paths = [file.parent / entry["clean"] for entry in entries]
        truths = [entry_truths(entry) for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(f"{file} is not a gallery: {error!r}") from error
    return paths, truths


def _images_below(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise LabError(f"no images in {folder}")
    return paths


def _own_words(victim: Victim, pixels: np.ndarray) -> list[Dialogue]:
    said = generate(victim, [pixels], [[CAPTION_REQUEST]], max_new_tokens=48)
    return [Dialogue(CAPTION_REQUEST, said[0][0])]
