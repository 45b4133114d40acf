"""Which attacks of a report stand for a tier, and what tiers are called."""

from __future__ import annotations

from collections.abc import Sequence

from codefend.lab.labels import UNION
from codefend.lab.plots.rows import PlotRow, select

__all__ = ["MAIN_LEVELS", "accuracies", "main_attack", "tier_title", "worst_rows"]

"""The pseudo-attack that counts an answer which any attack spoils."""

MAIN_LEVELS = 8
_SANITY = {"none", "uniform_noise"}
_TITLES = {
    "t0": "T0, the attacker does not know of the purifier",
    "t1": "T1, attacks through a surrogate purifier",
    "t2": "T2, white-box: attacks through the deployed purifier",
    "t3": "T3, the same image sent ten times",
    "t4": "T4, sees the answers alone",
}


def tier_title(tier: str) -> str:
    """What the attacker of a tier knows."""
    return _TITLES.get(tier, tier)


def accuracies(rows: Sequence[PlotRow], victim: str, tier: str) -> list[PlotRow]:
    """VQA accuracies of one victim under the untargeted attacks of a tier, unattacked included."""
    found = select(rows, victim=victim, task="vqa", metric="accuracy", targeted=False)
    return [row for row in found if row.tier == tier or row.attack == "none"]


def main_attack(rows: Sequence[PlotRow]) -> str | None:
    """The attack tried at most radii, the worst of all if it is one of them; None without any.

    What a tier asks of unattacked images is no attack, whatever it is called.
    """
    radii: dict[str, set[int]] = {}
    for row in rows:
        if row.attack not in _SANITY and row.levels:
            radii.setdefault(row.attack, set()).add(row.levels)
    # The first of equals: reports begin with the attack that settings were chosen under.
    return max(radii, key=lambda name: (len(radii[name]), name == UNION), default=None)


def worst_rows(rows: Sequence[PlotRow]) -> list[PlotRow]:
    """Of several rows at one radius, such as of several step counts, the lowest; by radius."""
    lowest: dict[int, PlotRow] = {}
    for row in rows:
        if row.levels not in lowest or row.value < lowest[row.levels].value:
            lowest[row.levels] = row
    return [lowest[levels] for levels in sorted(lowest)]
