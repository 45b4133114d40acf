"""Whether a report may be believed: pure functions from its rows to passed or failed, and why.

An attacker who cannot break what is known to break says nothing about a defence that holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.uploads import CURVE_SUFFIX
from codefend.lab.experiments.report import Row
from codefend.lab.labels import NOISE, OURS, UNION

__all__ = [
    "CONTROLS",
    "Check",
    "banner",
    "check_black_box",
    "check_controls",
    "check_curve",
    "check_epsilons",
    "check_noise",
    "check_order",
    "check_report",
]

CONTROLS = {"blur": "exact", "jpeg": "bpda", "noise": "exact"}
"""Defences that the white-box attacker must break, and the gradient that it needs for each."""

_CONTROL_LEFT = 0.15  # of the clean accuracy, at most
_NOISE_COST = 0.02  # of accuracy, at most
_RADIUS = 8 / 255
_CURVE_STEPS = (50, 100, 200, 400)
_LEAST_DRAWS = 16


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one report.

    Attributes:
        name: what is checked.
        passed: whether it holds; what was not measured does not.
        reason: the figures that decide, in words.
    """

    name: str
    passed: bool
    reason: str


def check_report(rows: Sequence[Row], tiers: Collection[str]) -> list[Check]:
    """All checks that a report of these tiers must pass.

    Args:
        rows: every figure.
        tiers: names of the tiers that were to be measured.
    """
    checks: list[Check] = []
    if Tier.OBLIVIOUS in tiers:
        checks.append(check_noise(rows, "none"))
        # A look at one radius alone is no claim; a white-box report is.
        if Tier.WHITE_BOX in tiers or len(_oblivious_curve(rows)) > 1:
            checks.append(check_epsilons(rows))
    ours = next((name for name in OURS if any(row.defence == name for row in rows)), None)
    if Tier.WHITE_BOX in tiers:
        checks += [check_controls(rows, control) for control in CONTROLS]
    if ours is None:
        return checks
    if Tier.WHITE_BOX in tiers:
        checks += [check_curve(rows, ours), check_noise(rows, ours)]
    if {Tier.TRANSFER, Tier.WHITE_BOX} <= set(tiers):
        checks.append(check_order(rows, ours))
    if Tier.QUERY in tiers:
        checks.append(_check_disclosures(rows))
    if {Tier.WHITE_BOX, Tier.QUERY} <= set(tiers):
        checks.append(check_black_box(rows))
    return checks


def banner(checks: Sequence[Check]) -> str:
    """What stands above a report whose checks fail, in Markdown; empty where all pass."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return ""
    lines = [f"> - {check.name}: {check.reason}" for check in failed]
    head = f"> **DO NOT RELY ON THIS REPORT: {len(failed)} of its {len(checks)} checks fail.**"
    return "\n".join([head, ">", *lines])


def check_controls(rows: Sequence[Row], control: str) -> Check:
    """The white-box attacker leaves at most 15 % of a known-weak defence's accuracy at 8/255.

    Args:
        rows: every figure.
        control: a key of ``CONTROLS``.
    """
    name = f"control: {control} is broken at 8/255"
    gradient = CONTROLS[control]
    at_radius = [
        row
        for row in _accuracies(rows, Tier.WHITE_BOX, control, "accuracy_of_clean")
        if _is_near(row.epsilon, _RADIUS) and not row.attack.endswith(CURVE_SUFFIX)
    ]
    used = [row for row in at_radius if row.gradient == gradient]
    if control == "noise":
        used = [row for row in used if row.eot >= _LEAST_DRAWS]
    if not used:
        return Check(name, False, f"not attacked by {gradient} gradients in the agreed way")
    left = min(at_radius, key=lambda row: row.value)
    reason = f"{left.attack} leaves {left.value:.1%} of clean (limit {_CONTROL_LEFT:.0%})"
    return Check(name, left.value <= _CONTROL_LEFT, reason)


def check_curve(rows: Sequence[Row], defence: str) -> Check:
    """More steps break no more than the report's own number, beyond the interval measured there.

    Args:
        rows: every figure.
        defence: what the curve was measured on.
    """
    name = f"step curve of {defence} is flat"
    measured = _accuracies(rows, Tier.WHITE_BOX, defence)
    curve = {row.steps: row for row in measured if row.attack.endswith(CURVE_SUFFIX)}
    missing = [str(steps) for steps in _CURVE_STEPS if steps not in curve]
    if missing:
        return Check(name, False, f"not measured at {', '.join(missing)} steps")
    headline = [row.steps for row in measured if row.attack == UNION] or [_CURVE_STEPS[0]]
    anchor = curve[max(steps for steps in _CURVE_STEPS if steps <= max(50, *headline))]
    points = [curve[steps] for steps in sorted(curve)]
    reason = ", ".join(f"{row.steps} steps leave {row.value:.1%}" for row in points)
    reason += f"; at {anchor.steps}, as reported, the interval ends at {anchor.low:.1%}"
    lower = [row for row in points if row.steps > anchor.steps and row.value < anchor.low]
    return Check(name, not lower, f"{reason} (n={anchor.n})")


def check_epsilons(rows: Sequence[Row]) -> Check:
    """The undefended model answers less and less rightly as the radius grows."""
    name = "success rises with epsilon"
    longest = _oblivious_curve(rows)
    if len(longest) < 2:
        return Check(name, False, "not measured at two radii")
    points = [longest[epsilon] for epsilon in sorted(longest)]
    reason = ", ".join(f"{round(r.epsilon * 255)}/255 leaves {r.value:.1%}" for r in points)
    falls = all(b.value <= a.value for a, b in pairwise(points))
    return Check(name, falls and points[-1].value < points[0].value, reason)


def check_noise(rows: Sequence[Row], defence: str) -> Check:
    """Uniform noise of the attack's size costs at most two points of accuracy."""
    name = f"random noise does nothing to {defence}"
    costs = sorted(_noise_costs(rows, defence))
    if not costs:
        return Check(name, False, "not measured")
    reason = ", ".join(f"{round(radius * 255)}/255 costs {cost:.1%}" for radius, cost in costs)
    worst = max(cost for _, cost in costs)
    return Check(name, worst <= _NOISE_COST, f"{reason} (limit {_NOISE_COST:.0%})")


def check_order(rows: Sequence[Row], defence: str) -> Check:
    """The white-box attack by itself costs at least as much as the transferred one, that as noise.

    Otherwise its gradients are masked.
    """
    name = f"white-box, then transfer, then noise on {defence}"
    kinds = {
        "white-box": [
            row
            for row in _accuracies(rows, Tier.WHITE_BOX, defence, "accuracy_lost")
            if row.attack not in {UNION, NOISE} and not row.attack.endswith(CURVE_SUFFIX)
        ],
        "transfer": _accuracies(rows, Tier.TRANSFER, defence, "accuracy_lost"),
        "noise": [
            row
            for row in _accuracies(rows, Tier.WHITE_BOX, defence, "accuracy_lost")
            if row.attack == NOISE
        ],
    }
    at_radius = {
        kind: [row.value for row in found if _is_near(row.epsilon, _RADIUS)]
        for kind, found in kinds.items()
    }
    missing = [kind for kind, values in at_radius.items() if not values]
    if missing:
        return Check(name, False, f"not measured at 8/255: {', '.join(missing)}")
    costs = {kind: max(values) for kind, values in at_radius.items()}
    reason = ", ".join(f"{kind} costs {cost:.1%}" for kind, cost in costs.items())
    passed = costs["white-box"] >= costs["transfer"] >= costs["noise"]
    return Check(name, passed, reason)


def check_black_box(rows: Sequence[Row]) -> Check:
    """Queries alone break no more than the white-box attacks together do."""
    name = "white-box beats queries"
    queried = _accuracies(rows, Tier.QUERY, "codefend", "accuracy_lost")
    white = [
        row
        for row in _accuracies(rows, Tier.WHITE_BOX, "codefend", "accuracy_lost")
        if row.attack == UNION
    ]
    if not queried or not white:
        return Check(name, False, "not measured on codefend")
    best, whole = max(row.value for row in queried), max(row.value for row in white)
    return Check(name, whole >= best, f"white-box costs {whole:.1%}, queries {best:.1%}")


def _check_disclosures(rows: Sequence[Row]) -> Check:
    name = "T4 at both disclosure settings"
    attacks = {row.attack for row in rows if row.tier == Tier.QUERY}
    missing = [
        f"{attack}-{setting}"
        for attack in ("square", "mf-tt")
        for setting in ("full", "minimal")
        if f"{attack}-{setting}" not in attacks
    ]
    reason = f"not measured: {', '.join(missing)}" if missing else "both measured"
    return Check(name, not missing, reason)


def _oblivious_curve(rows: Sequence[Row]) -> dict[float, Row]:
    """T0 accuracies of the undefended model by radius, of the attack that was run at most radii."""
    curves: dict[str, dict[float, Row]] = {}
    for row in _accuracies(rows, Tier.OBLIVIOUS, "none"):
        if row.attack not in {UNION, NOISE}:
            curves.setdefault(row.attack, {})[row.epsilon] = row
    return max(curves.values(), key=len, default={})


def _accuracies(
    rows: Sequence[Row], tier: Tier, defence: str, metric: str = "accuracy"
) -> list[Row]:
    """Untargeted VQA figures of one tier and defence; CIDEr where nothing was answered."""
    task = _task(rows)
    metric = metric if task == "vqa" else metric.replace("accuracy", "cider")
    return [
        row
        for row in rows
        if (row.tier, row.defence, row.task, row.metric, row.targeted)
        == (tier, defence, task, metric, False)
    ]


def _task(rows: Sequence[Row]) -> str:
    """What checks look at: answers, or captions where nothing else was asked for."""
    return "vqa" if any(row.task == "vqa" for row in rows) else "caption"


def _noise_costs(rows: Sequence[Row], defence: str) -> Iterator[tuple[float, float]]:
    """Radius and lost accuracy of uniform noise, wherever it was measured."""
    task = _task(rows)
    quality = "accuracy" if task == "vqa" else "cider"
    for row in rows:
        if (row.attack, row.defence, row.task) != (NOISE, defence, task):
            continue
        if row.metric == f"{quality}_lost":
            yield row.epsilon, row.value
        elif row.metric == f"{quality}_of_clean" and defence == "none" and row.value > 0:
            # Undefended, clean accuracy on the same scenes is accuracy over what is left of it.
            yield row.epsilon, _accuracy_beside(row, rows) * (1.0 / row.value - 1.0)


def _accuracy_beside(share: Row, rows: Sequence[Row]) -> float:
    return next(
        row.value
        for row in rows
        if row.metric in {"accuracy", "cider"}
        and (row.tier, row.attack, row.epsilon, row.defence, row.task)
        == (share.tier, share.attack, share.epsilon, share.defence, share.task)
    )


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) < 1e-6
