"""``codefend-lab read``: does a real reader read attacked print as it stands there?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.named import defence_named
from codefend.lab.baselines.purifiers import load_purifier
from codefend.lab.documents.document import Fonts
from codefend.lab.encoders.releases import ENCODERS_FOLDER
from codefend.lab.experiments.report import Row, cell, provenance, write_report
from codefend.lab.recognition.attacked import ReadingPlan, reading_rows, through_rows
from codefend.lab.recognition.lines import WISHES, attacked_lines
from codefend.lab.recognition.recogniser import LineReader
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = ["register"]

_DEFENCES = (
    "none,purifier:0.05,purifier:0.08,base:0.05,base:0.1,jpeg:75,jpeg:50,jpeg:30,jpeg:20,"
    "noise:0.05+bilateral:0.2,purifier:0.05+jpeg:40,base:0.05+jpeg:40"
)


def register(app: typer.Typer) -> None:
    """Adds the command to ``codefend-lab``."""
    app.command("read")(read)


def read(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the report; a run resumes from it.")],
    encoders: Annotated[Path, typer.Option(help="Folder of `data encoders`.")] = ENCODERS_FOLDER,
    fonts: Annotated[
        Path | None, typer.Option(help="Folder of typefaces; Pillow's built-in one where none.")
    ] = None,
    purifier: Annotated[Path, typer.Option(help="Our purifier.")] = WEIGHTS_DIRECTORY / "purifier",
    base: Annotated[Path, typer.Option(help="Before fine-tuning.")] = WEIGHTS_DIRECTORY / "base",
    defences: Annotated[
        str, typer.Option(help="Comma-separated, as those of `classify`.")
    ] = _DEFENCES,
    through: Annotated[
        str, typer.Option(help="Defences also attacked through themselves (T2), comma-separated.")
    ] = "",
    num: Annotated[int, typer.Option(min=2, help="Receipts; three lines of each.")] = 24,
    steps: Annotated[int, typer.Option(min=1, help="Attack steps.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the defence's noise.")] = 3,
    seed: Annotated[int, typer.Option(help="Of receipts and random starts.")] = 0,
) -> None:
    """Attack printed lines so that a reader reads another amount, another name or nothing."""
    reader = LineReader.load(encoders)
    networks = {
        name: load_purifier(path) for name, path in {"purifier": purifier, "base": base}.items()
    }
    asked = [defence_named(word, networks) for word in defences.split(",")]
    lines = attacked_lines(Fonts.find(fonts) if fonts else Fonts.built_in(), num=num, seed=seed)
    plan = ReadingPlan(steps=steps, seeds=seeds, seed=seed)
    adaptive = [defence_named(word, networks) for word in through.split(",") if word]
    rows = reading_rows(reader, lines, asked, plan, out)
    rows += through_rows(reader, lines, adaptive, plan, out)
    weights = {name: sha256 for name, (_, sha256) in networks.items()}
    meta = provenance(seed=seed, weights={**weights, "reader": reader.sha256}, device="cpu")
    tables = [_table(rows, metric, title) for metric, title in _TITLES.items()]
    if adaptive:
        tables.append(_through_table([row for row in rows if row.tier == Tier.WHITE_BOX]))
    typer.echo(write_report(out, meta, rows, [*tables, _notes(plan, len(lines))]))


_TITLES = {
    "targeted_success": "read as the attacker wants",
    "accuracy": "read as printed",
    "character_error": "characters wrong",
}


def _table(rows: Sequence[Row], metric: str, title: str) -> str:
    """Of targets a column for each wish; of what is read else all lines together."""
    own = [
        row
        for row in rows
        if row.metric == metric
        and row.tier != Tier.WHITE_BOX
        and (row.attack != "pgd-all") == (metric == "targeted_success" or not row.epsilon)
    ]
    columns = sorted({(row.epsilon, row.attack) for row in own})
    heads = [_head(epsilon, attack) for epsilon, attack in columns]
    lines = [f"| {title} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for defence in dict.fromkeys(row.defence for row in own):
        found = {(row.epsilon, row.attack): row for row in own if row.defence == defence}
        lines.append(f"| {defence} | " + " | ".join(cell(found.get(c)) for c in columns) + " |")
    return "\n".join(lines)


def _head(epsilon: float, attack: str) -> str:
    if not epsilon:
        return "clean"
    wish = attack.removeprefix("pgd-")
    return f"{round(epsilon * 255)}/255" + ("" if wish == "all" else f", {wish}")


def _through_table(rows: Sequence[Row]) -> str:
    heads = [_head(rows[0].epsilon, rows[0].attack), *list(_TITLES.values())[1:], "n"]
    lines = [
        "| T2, read as the attacker wants | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for defence in dict.fromkeys(row.defence for row in rows):
        found = {row.metric: row for row in rows if row.defence == defence}
        cells = [cell(found[metric]) for metric in _TITLES]
        lines.append(f"| {defence} | " + " | ".join(cells) + f" | {rows[0].n} |")
    return "\n".join(lines)


def _notes(plan: ReadingPlan, num: int) -> str:
    return (
        f"T0 on PP-OCRv6's recogniser, which no training ever saw: {plan.steps} steps of PGD on "
        f"the loss of the target, undefended. {num} lines of receipts of our own making, a third "
        f"each: {', '.join(WISHES)}; an amount with one other digit, the name of another thing on "
        "sale, no text at all. Read as printed and as the attacker wants are exact matches. "
        "Brackets are 95 % intervals by a bootstrap over receipts. T2: amounts at the largest ε, "
        f"the same steps through the defence, {plan.num_draws} draws of its noise averaged; exact "
        "gradients where there are any, else the surrogate's and BPDA's; the strongest counts."
    )
