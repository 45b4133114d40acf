"""The README's picture: a scene, attacked, purified, each with what the model really says of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.victims.answers import is_match
from codefend.lab.victims.generate import generate
from codefend.lab.victims.victim import Victim
from codefend.models.prompts.templates import render
from codefend.models.purifier.purifier import Purifier
from codefend.models.quantise import dequantise, quantise

__all__ = ["draw_picture"]

RIGHT, WRONG = "#1a7f37", "#cf222e"


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    image: np.ndarray
    answers: list[str]


def draw_picture(
    gallery: Path,
    victim: Victim,
    pipeline: Purifier,
    out: Path,
    *,
    num_questions: int = 3,
) -> None:
    """Draw the first gallery scene whose questions go right, wrong under attack, and right again.

    Raises:
        LabError: There is no gallery, or no such scene in it.
    """
    scenes = gallery / "scenes.json"
    if not scenes.exists():
        raise LabError(f"{scenes} does not exist; make it with: codefend-lab data gallery")
    for entry in json.loads(scenes.read_text(encoding="utf-8")):
        questions = entry["questions"][:num_questions]
        panels = _panels(gallery, entry, questions, victim, pipeline)
        right = [
            [is_match(text, q["answer"]) for text, q in zip(panel.answers, questions, strict=True)]
            for panel in panels
        ]
        if all(right[0]) and not any(right[1]) and all(right[2]):
            _draw(panels, questions, right, out)
            return
    raise LabError("no gallery scene goes right, then wrong under attack, then right when purified")


def _panels(
    gallery: Path,
    entry: dict[str, Any],
    questions: list[dict[str, str]],
    victim: Victim,
    pipeline: Purifier,
) -> list[_Panel]:
    clean, attacked = (
        np.asarray(Image.open(gallery / entry[key])) for key in ("clean", "attacked")
    )
    pixels = dequantise(torch.from_numpy(attacked.copy())[None])
    purified = quantise(pipeline.purify(pixels))[0].numpy()
    levels = round(entry["attack"]["epsilon"] * 255)
    titles = ("the scene", f"attacked, {levels}/255", "attacked, then purified")
    images = [clean, attacked, purified]
    prompts = [[q["question"] for q in questions]] * 2
    prompts.append([render("vqa", q["question"]) for q in questions])
    answers = generate(victim, images, prompts, max_new_tokens=12)
    return [_Panel(*row) for row in zip(titles, images, answers, strict=True)]


def _draw(
    panels: list[_Panel], questions: list[dict[str, str]], right: list[list[bool]], out: Path
) -> None:
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9.6, 4.6), dpi=120)
    for axis, panel, marks in zip(axes, panels, right, strict=True):
        axis.imshow(panel.image, interpolation="lanczos")
        axis.set_title(panel.title, fontsize=12)
        axis.set_axis_off()
        for line, (question, answer, is_right) in enumerate(
            zip(questions, panel.answers, marks, strict=True)
        ):
            height = -0.08 - 0.16 * line
            axis.text(
                0,
                height,
                question["question"],
                transform=axis.transAxes,
                fontsize=9,
                color="#57606a",
            )
            axis.text(
                0,
                height - 0.075,
                answer,
                transform=axis.transAxes,
                fontsize=11,
                color=RIGHT if is_right else WRONG,
                fontweight="bold",
            )
    figure.subplots_adjust(left=0.02, right=0.98, top=0.92, bottom=0.34, wspace=0.08)
    figure.savefig(out)
    plt.close(figure)
