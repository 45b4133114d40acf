"""Pictures for a report: the first scenes clean, attacked, purified, and what was said of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.defence import defend
from codefend.lab.evaluate.context import EvalContext
from codefend.lab.evaluate.data import TrueScene, correctness
from codefend.lab.evaluate.fidelity import fidelity
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.tiers import white_box_uploads
from codefend.lab.evaluate.uploads import Uploader, Uploads
from codefend.lab.labels import OURS
from codefend.lab.plots.sheet import SheetPanel, SheetRow, difference_image, draw_sheet
from codefend.lab.victims.generate import MAX_ANSWER_TOKENS, generate
from codefend.lab.victims.victim import Victim

__all__ = ["difference_panel", "draw_examples"]

_NUM_SCENES, _NUM_QUESTIONS = 4, 4
_RIGHT = 0.5  # of an answer that people judge


def draw_examples(context: EvalContext, tiers: Collection[Tier], out: Path) -> None:
    """Draws the first scenes as they come, saved or not, behind the first of our defences.

    Args:
        context: what was evaluated; the attacked images are those that it kept.
        tiers: which were; T0's last objective is shown, and T2's first gradient.
        out: PNG, JPEG or WebP to write; none without a defence of ours, or without either tier.
    """
    ours = next((c for name in OURS for c in context.conditions if c.name == name), None)
    if ours is None:
        return
    uploader = Uploader(context)
    num = min(_NUM_SCENES, context.num_through(ours))
    shown: list[Uploads] = []
    if Tier.OBLIVIOUS in tiers:
        shown.append(uploader.oblivious(num)[-1])
    if Tier.WHITE_BOX in tiers:
        shown.append(white_box_uploads(uploader, ours, context.num_through(ours))[0])
    if shown:
        scenes = context.scenes[:num]
        rows = [_row(context.victim, ours, scene, i, shown) for i, scene in enumerate(scenes)]
        draw_sheet(rows, out)


def difference_panel(purified: np.ndarray, clean: np.ndarray) -> SheetPanel:
    """What purification left changed, eightfold, and in decibels."""
    (psnr_db,), _ = fidelity([purified], [clean])
    image = difference_image(purified, clean)
    return SheetPanel("purified - clean, ×8", image, note=f"PSNR {psnr_db:.1f} dB")


def _row(
    victim: Victim, condition: Condition, scene: TrueScene, number: int, shown: Sequence[Uploads]
) -> SheetRow:
    asked = scene.questions[:_NUM_QUESTIONS]
    plain = [question.question for question in asked]
    prompts = [condition.prompt("vqa", question) for question in plain]

    def panel(title: str, image: np.ndarray, questions: list[str]) -> SheetPanel:
        (said,) = generate(victim, [image], [questions], max_new_tokens=MAX_ANSWER_TOKENS)
        right = tuple(correctness(a, q) >= _RIGHT for a, q in zip(said, asked, strict=True))
        return SheetPanel(title, image, tuple(said), right)

    panels = [panel("clean", scene.image, plain)]
    for uploads in shown:
        threat, attacked = uploads.threat, uploads.images[number]
        (purified,) = defend(condition.defence, [attacked], seed=number)
        title = f"{threat.tier.upper()}, {round(threat.epsilon * 255)}/255"
        panels += [
            panel(title, attacked, plain),
            panel("purified", purified, prompts),
            difference_panel(purified, scene.image),
        ]
    return SheetRow(tuple(plain), tuple(panels))
