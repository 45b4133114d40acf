"""``codefend-lab classify``: what a purifier restores of a pretrained classifier's sight.

Its report has a table for each classifier, every family of defences at its best, and curves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import typer
from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.named import defence_named
from codefend.lab.classification.attacked import ATTACK, GAIN, ClassifierRun, ClassifyWhiteBox
from codefend.lab.classification.windows import LEAST_CONFIDENCE, SIDE_PX, confident_windows
from codefend.lab.detection.scoring import (
    SuspicionScorer,
    detection_rows,
    detection_table,
)
from codefend.lab.detection.uploads import altered_uploads
from codefend.lab.encoders.encoder import CLASSIFIERS, load_any_classifier
from codefend.lab.errors import LabError
from codefend.lab.experiments.pretrained import (
    Networks,
    PretrainedExperiment,
    defence_table,
    named,
)
from codefend.lab.experiments.report import Row, provenance, radius, read_report, write_report
from codefend.lab.experiments.table import Table, pivot
from codefend.lab.fidelity.samples import folder_samples, photo_samples
from codefend.lab.labels import UNION
from codefend.lab.plots.style import INK, color_of, new_figure, save_small, show_percent
from codefend.lab.world.compose import World

__all__ = ["Classify", "best_at", "draw_curves", "tables_of"]

CLEAN_TARGETS = (0.9, 0.8, 0.7, 0.6, 0.5)
_SHARED = ("photos", "world", "per_photo", "seed", "seeds", "steps", "white_box")
"""Settings in which reports agree whose rows stand in one table."""
_ITSELF = ("tier", "attack", "epsilon", "victim", "defence", "metric")
"""What tells one row of a report from another."""
_MARKERS = "osD^vPX*<>"


class Classify(PretrainedExperiment):
    """Attack pretrained classifiers on windows of photos, and count the predictions that survive.

    T0: the attacker has the classifier's gradients and does not know of the purifier. T2: it has
    the defence's too. Interrupted, it resumes: attacked images are kept in the report's folder.
    """

    name: ClassVar[str] = "classify"

    victims: tuple[str, ...] = Field(
        CLASSIFIERS[:2], description=f"Classifiers, comma-separated: of {', '.join(CLASSIFIERS)}."
    )
    world: Path = Path("work/world.npz")
    """World file, for its test photos."""
    photos: Path | None = None
    """Folder of photos or collages, instead of the world's."""
    parts: tuple[Path, ...] = ()
    """Reports of earlier runs on the same windows, packed or not, whose rows stand here too: other
    radii, classifiers or defences. With no defences of its own a run joins its parts, no more."""
    against: str = ""
    """One of the defences, or of those in the parts: gains of all others over it, window by
    window."""
    per_photo: PositiveInt = 32
    """Windows looked at in each photo."""
    most: PositiveInt = 320
    """Windows kept at most, things in turns."""
    white_box: ClassifyWhiteBox = ClassifyWhiteBox()
    detector: Path | None = None
    """Detector that the windows are shown to, too: clean, altered and attacked (T0)."""
    device: str = ""
    """Torch device; found where empty."""

    @field_validator("against")
    @classmethod
    def _is_asked_about(cls, against: str, info: ValidationInfo) -> str:
        known = info.data.get("defences", ())
        if against and against not in known and not info.data.get("parts"):
            raise ValueError("it must be one of the defences")
        return against

    def run(self) -> None:
        """Writes the report and its plot."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        networks = self.load_networks(device=device)
        weights = {name: sha256 for name, (_, sha256) in networks.items()}
        joined = self.rows_of_parts(weights)
        scorer = None
        if self.detector:
            purifier = defence_named("purifier", networks)
            scorer = SuspicionScorer.load(self.detector, purifier, device=device)
            weights["detector"] = scorer.sha256
        measured, noticed, coverage = self._measured(networks, scorer, device)
        rows = [*joined, *measured]
        meta = provenance(seed=self.seed, weights=weights, device=device, settings=self)
        tables = [table.markdown() for table in tables_of(rows, self.victims)] if rows else []
        tables += [f"{name}:\n\n{detection_table(found)}" for name, found in noticed.items()]
        notes = "\n".join([self._notes(), *coverage])
        every = [*rows, *(row for found in noticed.values() for row in found)]
        typer.echo(write_report(self.out, meta, every, [*tables, notes]))
        if any(_is_counted(row) for row in rows):
            save_small(draw_curves(rows, self.victims), self.out / "trade-off.png")

    def _measured(
        self, networks: Networks, scorer: SuspicionScorer | None, device: str
    ) -> tuple[list[Row], dict[str, list[Row]], list[str]]:
        """What this run finds itself, what a detector notices, and of how many windows."""
        rows: list[Row] = []
        noticed: dict[str, list[Row]] = {}
        coverage: list[str] = []
        choose = scorer.choice if scorer else None
        asked, adaptive = (named(w, networks, choose) for w in (self.defences, self.through))
        if not (asked or adaptive or scorer):
            return rows, noticed, coverage
        against = dict(zip(self.defences, asked, strict=True)).get(self.against)
        photos = folder_samples(self.photos) if self.photos else photo_samples(World(self.world))
        for name in self.victims:
            victim = load_any_classifier(name, device=device, folder=self.encoders)
            windows = confident_windows(
                photos, victim, per_photo=self.per_photo, seed=self.seed, most=self.most
            )
            coverage.append(f"- {name}: sure of {windows.coverage}.")
            run = ClassifierRun(victim, windows, self, self.white_box)
            rows += run.unaware_rows(asked, against) if asked else []
            rows += run.white_box_rows(adaptive)
            if scorer:
                shown = [*altered_uploads("photo", windows.images, seed=self.seed)]
                shown += [each for level in self.levels for each in run.unaware(level)]
                noticed[name] = detection_rows(shown, scorer, victim=name, seeds=self.seeds)
        return rows, noticed, coverage

    def rows_of_parts(self, weights: Mapping[str, str]) -> list[Row]:
        """What earlier runs found; a figure that several hold stands once.

        Raises:
            LabError: A part is no report, or was measured otherwise.
        """
        own = self.model_dump(mode="json")
        found: dict[Any, Row] = {}
        for part in self.parts:
            meta, rows = read_report(part, Row)
            theirs = {**meta.get("settings", {}), "weights": meta.get("weights")}
            wanted = {**{name: own[name] for name in _SHARED}, "weights": dict(weights)}
            other = [name for name, value in wanted.items() if theirs.get(name) != value]
            if other:
                raise LabError(
                    f"{part} differs in {', '.join(other)}: run it anew, or leave it out"
                )
            for row in rows:
                found.setdefault(tuple(getattr(row, name) for name in _ITSELF), row)
        return list(found.values())

    def _notes(self) -> str:
        """What a reader of the tables must know."""
        training, *held_out = CLASSIFIERS
        notes = (
            f"T0: {ATTACK}, {self.steps} steps, by cross-entropy and by margin, on the undefended "
            "classifier; each figure is the share of windows whose class is that of the clean, "
            f"undefended window, worst of both attacks. Windows are {SIDE_PX} pixels wide; only "
            f"those whose likeliest class has at least {LEAST_CONFIDENCE:.0%} unattacked are asked "
            "about, chosen before any attack. Brackets are 95 % intervals by a bootstrap over "
            f"whole things or photos. {training} may train a purifier; {' and '.join(held_out)} "
            f"never do, the first of them {training}'s own family, the second another one. At "
            "equal clean agreement the best setting of each kind of defence is read off the same "
            "windows, which flatters all kinds alike, and those with more settings a little more."
        )
        if self.parts:
            notes += (
                f"\n\nJoined from {', '.join(map(str, self.parts))}; where columns rest on "
                "different numbers of windows, n says each, in their order."
            )
        if self.against:
            notes += f"\n\nGains, in points, are over {self.against} on the same windows."
        if self.detector:
            notes += (
                "\n\nflagged: the share above the detector's threshold that ships. caught: the "
                "share above the threshold that flags 1 % of the same windows unattacked."
            )
        if not (self.through or self.parts):
            return notes
        how = self.white_box
        return (
            f"{notes}\n\nT2: {how.windows} windows, attacked through the defence by the margin, "
            f"at most {how.steps} steps of PGD on the mean of {how.draws} draws of its noise; "
            "exact gradients where there are any, else the union of the surrogate's and BPDA's. "
            "So few windows tell a defence that stands from one that falls, and no more."
        )


def tables_of(rows: Sequence[Row], victims: Iterable[str]) -> list[Table]:
    """Of each victim all defences, then each kind at equal clean agreement; T2 last."""
    tables: list[Table] = []
    for victim in victims:
        own = [row for row in rows if row.victim == victim and _is_counted(row)]
        gains = [r for r in rows if (r.victim, r.metric) == (victim, GAIN)]
        heads = {epsilon: _head(epsilon) for epsilon in _radii(own)}
        tables.append(defence_table(victim, own, heads, lambda row: row.epsilon, has_n=True))
        tables.append(_best(rows, victim))
        if gains:
            title = f"{victim}: gain, window by window"
            tables.append(defence_table(title, gains, heads, lambda row: row.epsilon, has_n=True))
    adaptive = [row for row in rows if row.tier == Tier.WHITE_BOX]
    pairs = sorted({(row.victim, row.epsilon) for row in adaptive})
    columns = {pair: f"{pair[0]}, {_head(pair[1])}" for pair in pairs}
    title = "T2: predictions left"
    t2 = defence_table(title, adaptive, columns, lambda row: (row.victim, row.epsilon))
    return [*tables, *([t2] if adaptive else [])]


def best_at(rows: Sequence[Row], victim: str, least_clean: float) -> dict[str, tuple[Row, ...]]:
    """Of each kind of defence the setting that restores most, among those that keep enough.

    Args:
        rows: of T0 and of clean windows.
        victim: whose.
        least_clean: agreement on clean windows that a setting must keep, a fraction.

    Returns:
        Kind to its clean row, then a row for each ε, in rising order.
    """
    best: dict[str, tuple[Row, ...]] = {}
    for name, by_radius in _by_defence(rows, victim).items():
        found = tuple(by_radius[epsilon] for epsilon in sorted(by_radius))
        kind = name.split(" ")[0]
        is_better = kind not in best or _restored(found) > _restored(best[kind])
        if found[0].value >= least_clean and is_better:
            best[kind] = found
    return best


def draw_curves(rows: Sequence[Row], victims: Sequence[str]) -> Any:
    """What each defence keeps of clean windows against what it restores.

    Returns:
        A matplotlib figure, a row of panels for each ε and one panel a victim: up and to the right
        is better.
    """
    found = {victim: _by_defence(rows, victim) for victim in victims}
    attacked = sorted({row.epsilon for row in rows if _is_counted(row) and row.epsilon})
    figure = new_figure(4.2 * len(victims), 4.6 * max(1, len(attacked)))
    panels = figure.subplots(max(1, len(attacked)), len(victims), squeeze=False)
    for line, epsilon in zip(panels, attacked, strict=False):
        for axes, victim in zip(line, victims, strict=True):
            _draw_panel(axes, found[victim], epsilon)
            axes.set_visible(any(epsilon in each for each in found[victim].values()))
            title = f"{victim}: restored at {radius(epsilon)}"
            axes.set_title(title, fontsize=11, color=INK, loc="left")
    if attacked:
        panels[0][0].legend(loc="upper left", frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _draw_panel(axes: Any, found: Mapping[str, Mapping[float, Row]], epsilon: float) -> None:
    """A line for each kind of defence, a mark for each of its settings."""
    spots: dict[str, list[tuple[float, float]]] = {}
    for name, each in found.items():
        if epsilon in each:
            pair = (each[0.0].value, each[epsilon].value)
            spots.setdefault(name.split(" ")[0], []).append(pair)
    for number, (kind, pairs) in enumerate(spots.items()):
        axes.plot(
            *zip(*sorted(pairs), strict=True),
            color=color_of(kind),
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.4,
            label=kind,
        )
    show_percent(axes, "clean predictions kept")
    kept = [share for pairs in spots.values() for share, _ in pairs]
    first = min(5, *(int(share * 10) for share in kept)) if kept else 5
    axes.set_xlim(first / 10 - 0.01, 1.02)
    tenths = range(first, 11)
    axes.set_xticks(
        [tenth / 10 for tenth in tenths], [f"{10 * t}{' %' * (t == 10)}" for t in tenths]
    )


def _is_counted(row: Row) -> bool:
    """Clean, or the worst of T0's attacks; gains are not."""
    is_shown = (row.tier, row.attack) in {(Tier.CLEAN, "none"), (Tier.OBLIVIOUS, UNION)}
    return is_shown and row.metric != GAIN


def _by_defence(rows: Iterable[Row], victim: str) -> dict[str, Mapping[float, Row]]:
    """A victim's counted rows by defence, then by ε; 0 is clean."""
    own = (row for row in rows if row.victim == victim and _is_counted(row))
    return pivot(own, lambda row: row.defence, lambda row: row.epsilon)


def _radii(rows: Iterable[Row]) -> list[float]:
    return sorted({row.epsilon for row in rows})


def _restored(found: Sequence[Row]) -> float:
    return sum(row.value for row in found[1:])


def _best(rows: Sequence[Row], victim: str) -> Table:
    """Restored at the best setting that keeps so much of the clean windows."""
    own = [row for row in rows if row.victim == victim]
    kinds = dict.fromkeys(row.defence.split(" ")[0] for row in own if row.defence != "none")
    best = [best_at(own, victim, least) for least in CLEAN_TARGETS]
    lines = []
    for kind in kinds:
        cells = [kind]
        for found in (each.get(kind) for each in best):
            values = " / ".join(f"{row.value:.0%}" for row in found[1:]) if found else "–"
            setting = found[0].defence.removeprefix(kind).strip() if found else ""
            cells.append(f"{values} ({setting})" if setting else values)
        lines.append(cells)
    radii = ", ".join(_head(epsilon) for epsilon in _radii(own) if epsilon)
    heads = [f"clean ≥ {least:.0%}" for least in CLEAN_TARGETS]
    return Table([f"{victim}: restored at {radii}", *heads], lines)


def _head(epsilon: float) -> str:
    return radius(epsilon) if epsilon else "clean"
