"""The sheet of the gallery: its first scenes clean, attacked and purified, with real answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from codefend.lab.attacks.pixels import decode_png
from codefend.lab.errors import LabError
from codefend.lab.evaluate.pictures import difference_panel
from codefend.lab.plots.sheet import SheetPanel, SheetRow, draw_sheet
from codefend.lab.victims.answers import is_match
from codefend.lab.victims.generate import generate
from codefend.lab.victims.victim import Victim
from codefend.models.prompts.templates import render
from codefend.models.purifier.purifier import Purifier
from codefend.models.quantise import dequantise, quantise

__all__ = ["draw_gallery_sheet"]


def draw_gallery_sheet(
    gallery: Path,
    victim: Victim,
    pipeline: Purifier,
    out: Path,
    *,
    num_scenes: int = 4,
    num_questions: int = 4,
    seed: int = 0,
) -> None:
    """Draws the first scenes, as they come, whether or not the defence saved them.

    Args:
        gallery: folder of ``scenes.json``.
        victim: who answers.
        pipeline: the purifier.
        out: PNG, JPEG or WebP to write.
        num_scenes: how many rows.
        num_questions: how many of each scene's questions are asked.
        seed: of the purifier's noise.

    Raises:
        LabError: There is no gallery.
    """
    file = gallery / "scenes.json"
    if not file.exists():
        raise LabError(f"{file} does not exist; make it with: codefend-lab data gallery")
    entries = json.loads(file.read_text(encoding="utf-8"))[:num_scenes]
    noise = torch.Generator(pipeline.device).manual_seed(seed)
    draw_sheet(
        [_row(gallery, entry, num_questions, victim, pipeline, noise) for entry in entries], out
    )


def _row(
    gallery: Path,
    entry: dict[str, Any],
    num_questions: int,
    victim: Victim,
    pipeline: Purifier,
    noise: torch.Generator,
) -> SheetRow:
    asked = entry["questions"][:num_questions]
    clean, attacked = (
        decode_png((gallery / entry[key]).read_bytes()) for key in ("clean", "attacked")
    )
    pixels = dequantise(torch.from_numpy(attacked.copy())[None]).to(pipeline.device)
    purified = quantise(pipeline.purify(pixels, noise))[0].cpu().numpy()
    levels = round(entry["attack"]["epsilon"] * 255)
    images = {"clean": clean, f"attacked, {levels}/255": attacked, "purified": purified}
    questions = [question["question"] for question in asked]
    served = [render("vqa", question) for question in questions]
    said = generate(
        victim, list(images.values()), [questions, questions, served], max_new_tokens=12
    )
    panels = [
        SheetPanel(
            title,
            image,
            tuple(answers),
            tuple(is_match(a, q["answer"]) for a, q in zip(answers, asked, strict=True)),
        )
        for (title, image), answers in zip(images.items(), said, strict=True)
    ]
    return SheetRow(tuple(questions), (*panels, difference_panel(purified, clean)))
