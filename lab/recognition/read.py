"""``codefend-lab read``: does a real reader read attacked print as it stands there?

T0 attacks the undefended reader towards another text, T2 attacks it through each defence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
import typer
from pydantic import Field, PositiveInt

from codefend.lab.attacks.gradient import PGD
from codefend.lab.attacks.interface import Objective, Tier
from codefend.lab.attacks.pixels import attack_pixels
from codefend.lab.baselines.defence import Defence
from codefend.lab.documents.document import Fonts
from codefend.lab.experiments.craft import AttackBatch, craft, gradients_of
from codefend.lab.experiments.pretrained import (
    PretrainedExperiment,
    defence_table,
    label_of,
    named,
    through,
)
from codefend.lab.experiments.report import (
    Row,
    Threat,
    provenance,
    radius,
    rows_under,
    write_report,
)
from codefend.lab.experiments.responder import Responder
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.experiments.statistics import Floats, Measure, ratio
from codefend.lab.experiments.store import Store
from codefend.lab.experiments.table import Table
from codefend.lab.progress import progress
from codefend.lab.reading import edit_distance
from codefend.lab.recognition.lines import (
    WISHES,
    AttackedLine,
    LineReader,
    Wish,
    attacked_lines,
    towards_text,
)
from codefend.models.quantise import dequantise

__all__ = ["Read", "ReadWhiteBox", "ReaderRun"]

_VICTIM = "pp-ocr-v6"
_TITLES = {
    "targeted_success": "read as the attacker wants",
    "accuracy": "read as printed",
    "character_error": "characters wrong",
}

Texts = list[list[str]]
"""What each line says, once a seed of the defence's noise."""


class ReadWhiteBox(RunSettings):
    """How lines are attacked through a defence: amounts alone, at the largest radius."""

    lines: PositiveInt = 8
    """Lines attacked through each defence."""
    draws: PositiveInt = 8
    """Draws of the defence's noise, averaged at every step."""


class Read(PretrainedExperiment):
    """Attack printed lines so that a reader reads another amount, another name or nothing."""

    name: ClassVar[str] = "read"

    fonts: Path | None = None
    """Folder of typefaces; Pillow's built-in one where none."""
    num: Annotated[int, Field(ge=2)] = 24
    """Receipts; three lines of each."""
    levels: tuple[Annotated[int, Field(ge=1, le=255)], ...] = (4, 8, 16)
    """Radii of the attack, in levels of 255."""
    steps: PositiveInt = 100
    """Attack steps."""
    white_box: ReadWhiteBox = ReadWhiteBox()

    def run(self) -> None:
        """Writes the report."""
        reader = LineReader.load(self.encoders)
        networks = self.load_networks()
        fonts = Fonts.find(self.fonts) if self.fonts else Fonts.built_in()
        lines = attacked_lines(fonts, num=self.num, seed=self.seed)
        run = ReaderRun(reader, lines, self)
        rows = run.unaware_rows(named(self.defences, networks))
        adaptive = run.white_box_rows(named(self.through, networks))
        weights = {name: sha256 for name, (_, sha256) in networks.items()}
        weights["reader"] = reader.sha256
        meta = provenance(seed=self.seed, weights=weights, device="cpu", settings=self)
        tables = [_table(rows, metric, title) for metric, title in _TITLES.items()]
        tables += [_white_box_table(adaptive)] if adaptive else []
        sections = [*(table.markdown() for table in tables), self._notes(len(lines))]
        typer.echo(write_report(self.out, meta, [*rows, *adaptive], sections))

    def _notes(self, num: int) -> str:
        return (
            "T0 on PP-OCRv6's recogniser, which no training ever saw: "
            f"{self.steps} steps of PGD on the loss of the target, undefended. "
            f"{num} lines of receipts of our own making, a third each: {', '.join(WISHES)}; an "
            "amount with one other digit, the name of another thing on sale, no text at all. Read "
            "as printed and as the attacker wants are exact matches. Brackets are 95 % intervals "
            "by a bootstrap over receipts. T2: amounts at the largest ε, the same steps through "
            f"the defence, {self.white_box.draws} draws of its noise averaged; exact gradients "
            "where there are any, else the surrogate's and BPDA's; the strongest counts."
        )


@dataclass(slots=True)
class ReaderRun:
    """The reader, attacked and asked behind defences; whatever was made is kept.

    Attributes:
        reader: attacked, and asked behind every defence.
        lines: what is printed, and what shall be read instead.
        plan: how.
        responder: defends and asks.
    """

    reader: LineReader
    lines: Sequence[AttackedLine]
    plan: Read
    responder: Responder = field(init=False)

    def __post_init__(self) -> None:
        """Opens the folder of outcomes."""
        self.responder = Responder(Store(self.plan.out / "outcomes"))

    def unaware_rows(self, defences: Sequence[Defence]) -> list[Row]:
        """What is read, clean and attacked undefended, behind each defence.

        Args:
            defences: the undefended among them, if it is to be reported.

        Returns:
            Rows of task ``reading``: exact truth (``accuracy``), exact target
            (``targeted_success``; one row for each wish, which ``attack`` names) and characters
            wrong a character of the truth (``character_error``); intervals by a bootstrap over
            receipts.
        """
        rows: list[Row] = []
        for level in (0, *self.plan.levels):
            images = [line.image for line in self.lines]
            if level:
                images = self.attacked(self.lines, level)
            for defence in progress(defences, desc=f"reading at {level}/255"):
                texts = self._texts(defence, images)
                for wish in (None, *(WISHES if level else ())):
                    chosen = [n for n, line in enumerate(self.lines) if wish in {None, line.wish}]
                    lines = [self.lines[n] for n in chosen]
                    own = [[said[n] for n in chosen] for said in texts]
                    rows += self._rows(self._threat(level, wish), defence, lines, own)
        return rows

    def white_box_rows(self, defences: Sequence[Defence]) -> list[Row]:
        """What is read of amounts that were attacked through the defence itself.

        Of its gradients, and of the attack that does not know of it, the one counts under which
        more lines are read as wanted, or more characters wrongly.
        """
        level, how = max(self.plan.levels), self.plan.white_box
        chosen = [line for line in self.lines if line.wish == "amount"][: how.lines]
        rows: list[Row] = []
        for defence in defences:
            found: dict[str, Texts] = {}
            for gradient in ("oblivious", *gradients_of(defence)):
                way = None if gradient == "oblivious" else (defence, gradient)
                found[gradient] = self._texts(defence, self.attacked(chosen, level, way))
            strongest = max(found, key=lambda name: _harm(chosen, found[name]))
            threat = replace(
                self._threat(level, "amount"),
                tier=Tier.WHITE_BOX,
                eot=how.draws if defence.is_random else 1,
                gradient=strongest,
            )
            rows += self._rows(threat, defence, chosen, found[strongest])
        return rows

    def attacked(
        self,
        lines: Sequence[AttackedLine],
        level: int,
        way: tuple[Defence, str] | None = None,
    ) -> list[np.ndarray]:
        """Lines attacked, one at a time, as each has a size of its own.

        Args:
            lines: what is attacked.
            level: radius, in levels of 255.
            way: the defence and the gradient that it is attacked through; undefended where None.
        """
        made_by = [self.reader.sha256, level, self.plan.steps]
        if way is not None:
            made_by += [way[0].name, way[0].setting, way[1], self.plan.white_box.draws]
        return craft(
            Store(self.plan.out / "attacked"),
            f"pgd-{level}",
            lines,
            partial(self._attack, level / 255, way),
            made_by=made_by,
            seed=self.plan.seed,
            batch_size=1,
        )

    def _attack(
        self, epsilon: float, way: tuple[Defence, str] | None, batch: AttackBatch[AttackedLine]
    ) -> list[bytes]:
        (line,) = batch.items

        def target(copies: int) -> Objective:
            return towards_text(self.reader, [line.target] * copies)

        objective = target(1)
        if way is not None:
            noise = torch.Generator().manual_seed(batch.seed + 1)
            draws = self.plan.white_box.draws
            objective = through(*way, target, num_draws=draws, noise=noise)
        return attack_pixels(
            PGD(epsilon=epsilon, steps=self.plan.steps),
            [line.image],
            objective,
            epsilon=epsilon,
            generator=torch.Generator().manual_seed(batch.seed),
        )

    def _texts(self, defence: Defence, images: Sequence[np.ndarray]) -> Texts:
        return self.responder(
            defence, images, self._read, asked=self.reader.sha256, seeds=self.plan.seeds
        )

    def _read(self, images: Sequence[np.ndarray]) -> list[str]:
        lines = [dequantise(torch.from_numpy(image[None].copy())) for image in images]
        return [self.reader.read(line)[0] for line in lines]

    def _threat(self, level: int, wish: Wish | None) -> Threat:
        if not level:
            return Threat(tier=Tier.CLEAN, attack="none")
        return Threat(
            tier=Tier.OBLIVIOUS,
            attack=f"pgd-{wish or 'all'}",
            family="language_loss",
            targeted=True,
            epsilon=level / 255,
            steps=self.plan.steps,
            eot=1,
            gradient="exact",
            restarts=1,
        )

    def _rows(
        self, threat: Threat, defence: Defence, lines: Sequence[AttackedLine], texts: Texts
    ) -> list[Row]:
        measures = _measures(lines, texts, attacked=threat.epsilon > 0)
        label, seeds = label_of(defence), self.plan.seeds
        return rows_under(threat, measures, defence=label, victim=_VICTIM, seeds=seeds)


def _harm(lines: Sequence[AttackedLine], texts: Texts) -> tuple[int, int]:
    """Targets read, and among equals characters wrong."""
    pairs = [pair for said in texts for pair in zip(said, lines, strict=True)]
    num_hit = sum(text == line.target for text, line in pairs)
    return num_hit, sum(edit_distance(text, line.truth) for text, line in pairs)


def _measures(lines: Sequence[AttackedLine], texts: Texts, *, attacked: bool) -> list[Measure]:
    """Means over seeds; numerators and denominators summed over each receipt's lines."""
    read = [list(zip(said, lines, strict=True)) for said in texts]
    ones, lengths = np.ones(len(lines)), np.array([float(len(line.truth)) for line in lines])
    counts: dict[str, tuple[Sequence[Sequence[int]], Floats]] = {
        "accuracy": ([[t == line.truth for t, line in said] for said in read], ones),
        "character_error": (
            [[edit_distance(t, line.truth) for t, line in said] for said in read],
            lengths,
        ),
    }
    if attacked:
        hit = [[t == line.target for t, line in said] for said in read]
        counts["targeted_success"] = (hit, ones)
    receipts = [line.receipt for line in lines]
    return [
        ("reading", metric, ratio(np.mean(each, axis=0), weights, clusters=receipts))
        for metric, (each, weights) in counts.items()
    ]


def _table(rows: Sequence[Row], metric: str, title: str) -> Table:
    """Of targets a column for each wish; of what is read else all lines together."""
    is_target = metric == "targeted_success"
    own = [
        row
        for row in rows
        if row.metric == metric and (row.attack != "pgd-all") == (is_target or not row.epsilon)
    ]
    columns = sorted({(row.epsilon, row.attack) for row in own})
    heads = {column: _head(*column) for column in columns}
    return defence_table(title, own, heads, lambda row: (row.epsilon, row.attack))


def _white_box_table(rows: Sequence[Row]) -> Table:
    heads = {**_TITLES, "targeted_success": _head(rows[0].epsilon, rows[0].attack)}
    title = f"T2, {_TITLES['targeted_success']}"
    return defence_table(title, rows, heads, lambda row: row.metric, has_n=True)


def _head(epsilon: float, attack: str) -> str:
    if not epsilon:
        return "clean"
    wish = attack.removeprefix("pgd-")
    return radius(epsilon) + ("" if wish == "all" else f", {wish}")
