"""T0 and T2 on a reader: print attacked to say something else, defended, and read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from codefend.lab.attacks.adaptive import ThroughDefence
from codefend.lab.attacks.gradient import PGD
from codefend.lab.attacks.interface import Objective, Tier
from codefend.lab.attacks.pixels import attack_pixels
from codefend.lab.baselines.defence import Defence, defend
from codefend.lab.evaluate.kept import kept_images
from codefend.lab.experiments.report import Row, Threat, rows_under
from codefend.lab.experiments.statistics import Measure, bootstrap
from codefend.lab.experiments.store import digest_of
from codefend.lab.progress import progress
from codefend.lab.reading import edit_distance
from codefend.lab.recognition.lines import WISHES, AttackedLine
from codefend.lab.recognition.recogniser import LineReader, towards_text
from codefend.models.quantise import dequantise

__all__ = ["ReadingPlan", "reading_rows", "through_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPlan:
    """How lines are attacked.

    Attributes:
        epsilons: radii, as fractions of the range.
        steps: of PGD towards the target.
        num_draws: of the defence's noise, averaged at every step of T2.
        num_through: lines attacked through each defence (T2), of amounts alone, at the largest ε.
        seeds: of the defence's noise.
        seed: of random starts.
    """

    epsilons: tuple[float, ...] = (4 / 255, 8 / 255, 16 / 255)
    steps: int = 100
    num_draws: int = 8
    num_through: int = 8
    seeds: int = 3
    seed: int = 0


def reading_rows(
    reader: LineReader,
    lines: Sequence[AttackedLine],
    defences: Sequence[Defence],
    plan: ReadingPlan,
    out: Path,
) -> list[Row]:
    """What is read, clean and attacked, behind each defence.

    Args:
        reader: attacked while undefended, asked behind every defence.
        lines: what is printed, and what shall be read instead.
        defences: the undefended among them, if it is to be reported.
        plan: how.
        out: where attacked images are kept; an interrupted run resumes from there.

    Returns:
        Rows of task ``reading``: exact truth (``accuracy``), exact target (``targeted_success``;
        one row for each wish, which ``attack`` names) and characters wrong a character of the truth
        (``character_error``); intervals by a bootstrap over receipts.
    """
    rows: list[Row] = []
    for epsilon in (0.0, *plan.epsilons):
        images = [line.image for line in lines]
        if epsilon:
            images = _attacked(reader, lines, epsilon, plan, out)
        for defence in progress(defences, desc=f"reading at {round(epsilon * 255)}/255"):
            texts = _read(reader, defence, images, plan.seeds)
            for wish in (None, *WISHES):
                chosen = [n for n, line in enumerate(lines) if wish in {None, line.wish}]
                if epsilon or wish is None:
                    own = [[said[n] for n in chosen] for said in texts]
                    rows += rows_under(
                        _threat(plan, epsilon, wish),
                        _measures([lines[n] for n in chosen], own, attacked=epsilon > 0),
                        defence=f"{defence.name} {_setting(defence)}".strip(),
                        victim="pp-ocr-v6",
                        seeds=plan.seeds,
                    )
    return rows


def through_rows(
    reader: LineReader,
    lines: Sequence[AttackedLine],
    defences: Sequence[Defence],
    plan: ReadingPlan,
    out: Path,
) -> list[Row]:
    """What is read of amounts that were attacked through the defence itself; see ``reading_rows``.

    Of its gradients, and of the attack that does not know of it, the one counts under which more
    lines are read as wanted, or more characters wrongly.
    """
    chosen = [line for line in lines if line.wish == "amount"][: plan.num_through]
    epsilon = max(plan.epsilons)
    rows: list[Row] = []
    for defence in defences:
        gradients = ["exact"] if "exact" in defence.gradient_paths else list(defence.gradient_paths)
        found: dict[str, list[list[str]]] = {}
        ways = [None, *((defence, gradient) for gradient in gradients)]
        for gradient, through in zip(["oblivious", *gradients], ways, strict=True):
            images = _attacked(reader, chosen, epsilon, plan, out, through)
            found[gradient] = _read(reader, defence, images, plan.seeds)
        strongest = max(found, key=lambda name: _harm(chosen, found[name]))
        rows += rows_under(
            replace(
                _threat(plan, epsilon, "amount"),
                tier=Tier.WHITE_BOX,
                eot=plan.num_draws if defence.is_random else 1,
                gradient=strongest,
            ),
            _measures(chosen, found[strongest], attacked=True),
            defence=f"{defence.name} {_setting(defence)}".strip(),
            victim="pp-ocr-v6",
            seeds=plan.seeds,
        )
    return rows


def _harm(lines: Sequence[AttackedLine], texts: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Targets read, and among equals characters wrong."""
    pairs = [pair for said in texts for pair in _pairs(said, lines)]
    num_hit = sum(text == line.target for text, line in pairs)
    return num_hit, sum(edit_distance(text, line.truth) for text, line in pairs)


def _setting(defence: Defence) -> str:
    return " ".join(w for w in defence.setting.split() if not w.startswith("weights="))


def _threat(plan: ReadingPlan, epsilon: float, wish: str | None) -> Threat:
    if not epsilon:
        return Threat(tier=Tier.CLEAN, attack="none")
    return Threat(
        tier=Tier.OBLIVIOUS,
        attack=f"pgd-{wish or 'all'}",
        family="language_loss",
        targeted=True,
        epsilon=epsilon,
        steps=plan.steps,
        eot=1,
        gradient="exact",
        restarts=1,
    )


def _attacked(
    reader: LineReader,
    lines: Sequence[AttackedLine],
    epsilon: float,
    plan: ReadingPlan,
    out: Path,
    through: tuple[Defence, str] | None = None,
) -> list[np.ndarray]:
    """One line at a time, as each has a size of its own; through a defence by one gradient."""
    images: list[np.ndarray] = []
    for number, line in enumerate(progress(lines, desc=f"pgd {round(epsilon * 255)}/255")):
        key = digest_of(
            reader.sha256,
            epsilon,
            [plan.steps, plan.seed, number],
            line.target,
            line.image.shape,
            line.image.tobytes().hex(),
            *([through[0].name, through[0].setting, through[1], plan.num_draws] if through else []),
        )
        search = PGD(epsilon=epsilon, steps=plan.steps)
        objective = towards_text(reader, [line.target])
        if through is not None:
            objective = _through(reader, line, *through, plan, number)

        def make(
            line: AttackedLine = line,
            search: PGD = search,
            objective: Objective = objective,
            number: int = number,
        ) -> list[bytes]:
            return attack_pixels(
                search,
                [line.image],
                objective,
                epsilon=search.epsilon,
                generator=torch.Generator().manual_seed(1_000_003 * plan.seed + number),
            )

        images += kept_images(out / "attacked" / key, 1, make)
    return images


def _through(
    reader: LineReader,
    line: AttackedLine,
    defence: Defence,
    gradient: str,
    plan: ReadingPlan,
    number: int,
) -> Objective:
    """The target's loss behind a defence, in the mean over draws of its noise."""
    draws = plan.num_draws if defence.is_random else 1
    return ThroughDefence(
        towards_text(reader, [line.target] * draws),
        defence.gradient_paths[gradient],
        torch.Generator().manual_seed(plan.seed * 1_000_003 + number + 1),
        draws,
        draws,
    )


def _read(
    reader: LineReader, defence: Defence, images: Sequence[np.ndarray], seeds: int
) -> list[list[str]]:
    """What each line says, once a seed of the defence's noise."""
    texts = []
    for seed in range(seeds if defence.is_random else 1):
        defended = defend(defence, images, seed=seed)
        pixels = [dequantise(torch.from_numpy(np.stack([image]))) for image in defended]
        texts.append([reader.read(image)[0] for image in pixels])
    return texts


def _measures(
    lines: Sequence[AttackedLine], texts: Sequence[Sequence[str]], *, attacked: bool
) -> list[Measure]:
    """Means over seeds; numerators and denominators summed over each receipt's lines."""
    right = np.array([[t == line.truth for t, line in _pairs(said, lines)] for said in texts])
    hit = np.array([[t == line.target for t, line in _pairs(said, lines)] for said in texts])
    wrong = np.array(
        [[edit_distance(t, line.truth) for t, line in _pairs(said, lines)] for said in texts]
    )
    ones = np.ones(len(lines))
    lengths = np.array([len(line.truth) for line in lines], np.float64)
    asked = [("accuracy", right, ones), ("character_error", wrong, lengths)]
    if attacked:
        asked.append(("targeted_success", hit, ones))
    receipts = np.array([line.receipt for line in lines])
    return [
        (
            "reading",
            name,
            bootstrap(
                np.array(
                    [
                        [values.mean(axis=0)[receipts == r].sum(), weights[receipts == r].sum()]
                        for r in np.unique(receipts)
                    ]
                ),
                lambda sums: np.asarray(sums[..., 0] / sums[..., 1]),
                n=len(lines),
            ),
        )
        for name, values, weights in asked
    ]


def _pairs(said: Sequence[str], lines: Sequence[AttackedLine]) -> list[tuple[str, AttackedLine]]:
    return list(zip(said, lines, strict=True))
