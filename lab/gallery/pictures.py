"""Pictures of the gallery with what the model really says: the README's, and a sheet of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from codefend.lab.attacks.pixels import decode_png
from codefend.lab.errors import LabError
from codefend.lab.evaluate.pictures import difference_panel
from codefend.lab.gallery.scenes import gallery_entries
from codefend.lab.plots.sheet import SheetPanel, SheetRow, draw_sheet
from codefend.lab.plots.style import RIGHT, WRONG, new_figure
from codefend.lab.victims.answers import is_match
from codefend.lab.victims.generate import generate
from codefend.lab.victims.victim import Victim
from codefend.models.prompts.templates import render
from codefend.models.purifier.purifier import Purifier
from codefend.models.quantise import dequantise, quantise

__all__ = ["draw_gallery_sheet", "draw_picture"]

_MAX_ANSWER_TOKENS = 12


def draw_picture(
    gallery: Path, victim: Victim, pipeline: Purifier, out: Path, *, num_questions: int = 3
) -> None:
    """Draw the first gallery scene whose questions go right, wrong under attack, and right again.

    Raises:
        LabError: There is no gallery, or no such scene in it.
    """
    for entry in gallery_entries(gallery):
        row = _asked(gallery, entry, num_questions, victim, pipeline, None)
        clean, attacked, purified = (panel.right for panel in row.panels)
        if all(clean) and not any(attacked) and all(purified):
            _draw(row, out)
            return
    raise LabError("no gallery scene goes right, then wrong under attack, then right when purified")


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
    noise = torch.Generator(pipeline.device).manual_seed(seed)
    rows = []
    for entry in gallery_entries(gallery)[:num_scenes]:
        row = _asked(gallery, entry, num_questions, victim, pipeline, noise)
        clean, _, purified = row.panels
        difference = difference_panel(purified.image, clean.image)
        rows.append(SheetRow(row.questions, (*row.panels, difference)))
    draw_sheet(rows, out)


def _asked(
    gallery: Path,
    entry: dict[str, Any],
    num_questions: int,
    victim: Victim,
    pipeline: Purifier,
    noise: torch.Generator | None,
) -> SheetRow:
    """A scene clean, attacked and purified, each with the victim's answers."""
    asked = entry["questions"][:num_questions]
    clean, attacked = (
        decode_png((gallery / entry[key]).read_bytes()) for key in ("clean", "attacked")
    )
    pixels = dequantise(torch.from_numpy(attacked.copy())[None]).to(pipeline.device)
    purified = quantise(pipeline.purify(pixels, noise))[0].cpu().numpy()
    levels = round(entry["attack"]["epsilon"] * 255)
    images = {"clean": clean, f"attacked, {levels}/255": attacked, "purified": purified}
    plain = [question["question"] for question in asked]
    prompts = [plain, plain, [render("vqa", question) for question in plain]]
    said = generate(victim, list(images.values()), prompts, max_new_tokens=_MAX_ANSWER_TOKENS)
    panels = []
    for (title, image), answers in zip(images.items(), said, strict=True):
        right = (is_match(a, q["answer"]) for a, q in zip(answers, asked, strict=True))
        panels.append(SheetPanel(title, image, tuple(answers), tuple(right)))
    return SheetRow(tuple(plain), tuple(panels))


def _draw(row: SheetRow, out: Path) -> None:
    titles = ("the scene", row.panels[1].title, "attacked, then purified")
    figure = new_figure(9.6, 4.6, dpi=120)
    for axis, panel, title in zip(figure.subplots(1, 3), row.panels, titles, strict=True):
        axis.imshow(panel.image, interpolation="lanczos")
        axis.set_title(title, fontsize=12)
        axis.set_axis_off()
        told = zip(row.questions, panel.answers, panel.right, strict=True)
        for line, (question, answer, is_right) in enumerate(told):
            height, place = -0.08 - 0.16 * line, {"transform": axis.transAxes}
            axis.text(0, height, question, fontsize=9, color="#57606a", **place)
            color = RIGHT if is_right else WRONG
            axis.text(0, height - 0.075, answer, fontsize=11, color=color, weight="bold", **place)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.92, bottom=0.34, wspace=0.08)
    figure.savefig(out, pil_kwargs={"quality": 92} if out.suffix == ".webp" else None)
