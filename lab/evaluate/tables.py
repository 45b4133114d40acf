"""What a report says to people: tables, what the defence breaks under, and how it was made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.grid import Trial
from codefend.lab.evaluate.checks import Check
from codefend.lab.evaluate.context import EvalContext, TierSettings
from codefend.lab.evaluate.uploads import CURVE_SUFFIX
from codefend.lab.experiments.report import Row, cell, radius
from codefend.lab.experiments.table import Table, pivot
from codefend.lab.labels import NOISE, OURS, UNION

__all__ = [
    "check_notes",
    "findings",
    "kept_table",
    "oblivious_notes",
    "oblivious_table",
    "suite_table",
    "tier_notes",
    "tier_tables",
]

_TITLES = {
    Tier.TRANSFER: "T1: attacked through a surrogate purifier",
    Tier.WHITE_BOX: "T2: attacked through the defence itself",
    Tier.RESUBMISSION: "T3: the same upload again and again",
    Tier.QUERY: "T4: attacked by queries alone",
}
_METRICS = ("accuracy", "accuracy_worst_of", "accuracy_majority_of", "accuracy_lost", "cider")
_COLUMNS = {
    "VQA": ("accuracy", "vqa"),
    "CIDEr": ("cider", "caption"),
    "targeted": ("targeted_success", "caption"),
    "PSNR, dB": ("psnr_db", None),
    "SSIM": ("ssim", None),
}
"""Of the table of T0: head, metric and task, under each attack in this order."""

_WORDS = {
    Tier.OBLIVIOUS: "an attacker who does not know of it",
    Tier.TRANSFER: "one who attacks through a purifier of their own",
    Tier.WHITE_BOX: "one who attacks through the defence itself",
    Tier.RESUBMISSION: "one who sends the same image ten times",
    Tier.QUERY: "one who sees the service's answers alone",
}
_NUM_WORST = 3
_KEPT = {"accuracy_of_clean": "VQA accuracy", "cider_of_clean": "CIDEr"}
_ORDER = {str(tier): number for number, tier in enumerate(Tier)}


def oblivious_table(rows: Iterable[Row]) -> str:
    """Clean and T0, one line a defence; empty where nothing of either was measured."""
    heads, figures = list(_COLUMNS), list(_COLUMNS.values())

    def column_of(row: Row) -> tuple[str, float, int]:
        order = figures.index((row.metric, row.task))
        return ("" if row.attack == "none" else row.attack), row.epsilon, order

    def head_of(attack: str, epsilon: float, order: int) -> str:
        return f"{f'{attack} {radius(epsilon)}' if attack else 'clean'} {heads[order]}"

    shown = [
        row
        for row in rows
        if row.tier in {Tier.CLEAN, Tier.OBLIVIOUS}
        and (row.metric, row.task) in figures
        and row.targeted == (row.metric == "targeted_success")
        and (row.attack == "none" or row.metric != "ssim")
    ]
    if not shown:
        return ""
    columns = sorted({column_of(row) for row in shown})
    titles = [head_of(*column) for column in columns]
    lines = [
        [defence, *(cell(found.get(column)) for column in columns)]
        for defence, found in pivot(shown, lambda row: row.defence, column_of).items()
    ]
    return Table(["defence", *titles], lines).markdown()


def suite_table(rows: Iterable[Row], attacks: Collection[str]) -> str:
    """A section with one line an attack of the suite: VQA accuracy behind each defence."""
    own = [
        row
        for row in rows
        if row.attack in attacks
        and (row.tier, row.task, row.metric) == (Tier.OBLIVIOUS, "vqa", "accuracy")
    ]
    if not own:
        return ""
    defences = list(dict.fromkeys(row.defence for row in own))
    lines = []
    for attack, found in pivot(own, lambda row: row.attack, lambda row: row.defence).items():
        first = next(iter(found.values()))
        about = [attack, first.family, "yes" if first.held_out else "no"]
        lines.append([*about, *(cell(found.get(name)) for name in defences), str(first.n)])
    table = Table(["attack", "family", "held out", *defences, "n"], lines)
    return f"## T0: the attack suite, answers right\n\n{table.markdown()}"


def kept_table(rows: Iterable[Row]) -> str:
    """A section with the share of the undefended model's clean quality that each defence keeps.

    That is what reports of other protocols are best compared by; of each attack the least.
    """
    own = [
        row
        for row in rows
        if row.metric in _KEPT and not row.targeted and not row.attack.endswith(CURVE_SUFFIX)
    ]
    if not own:
        return ""
    least = sorted((row for row in own if row.attack != NOISE), key=lambda row: row.value)
    table = pivot(least, lambda row: row.defence, lambda row: (row.tier, row.epsilon))
    columns = sorted({(row.tier, row.epsilon) for row in least}, key=lambda c: (_ORDER[c[0]], c[1]))
    heads = [f"{tier.upper()} {radius(epsilon)}" if epsilon else tier for tier, epsilon in columns]
    names = list(dict.fromkeys(row.defence for row in own))
    lines = [[name, *(cell(table[name].get(column)) for column in columns)] for name in names]
    what = _KEPT[own[0].metric]
    title = f"## Share of the undefended model's clean {what} that is kept, under the worst attack"
    return f"{title}\n\n{Table(['defence', *heads], lines).markdown()}"


def tier_tables(rows: Sequence[Row]) -> list[str]:
    """A section for each tier beyond T0 that has rows: one line an attack and defence."""
    sections = []
    for tier, title in _TITLES.items():
        own = [row for row in rows if row.tier == tier]
        if own:
            sections.append(f"## {title}\n\n{_tier_table(own).markdown()}")
    return sections


def _tier_table(rows: Sequence[Row]) -> Table:
    metrics = [
        metric
        for metric in dict.fromkeys(row.metric for row in rows)
        if metric.startswith(_METRICS) and ":" not in metric and not metric.endswith("of_clean")
    ]

    def about(row: Row) -> tuple[str, ...]:
        where = radius(row.epsilon) if row.epsilon else ""
        return row.defence, row.attack, row.gradient, where, str(row.steps), str(row.eot)

    lines = []
    for line, found in pivot(rows, about, lambda row: row.metric).items():
        num = found["accuracy"].n if "accuracy" in found else max(r.n for r in found.values())
        lines.append([*line, *(cell(found.get(metric)) for metric in metrics), str(num)])
    heads = ["defence", "attack", "gradient", "radius", "steps", "EOT", *metrics, "n"]
    return Table(heads, lines)


def findings(rows: Sequence[Row]) -> str:
    """A section that says how far each attacker gets and which attacks get furthest.

    Args:
        rows: every figure; the first of our defences among them is spoken of.

    Returns:
        Markdown; empty where none of ours was attacked.
    """
    ours = next((name for name in OURS if any(row.defence == name for row in rows)), None)
    if ours is None:
        return ""
    own = [row for row in rows if row.defence == ours and _counts(row)]
    attacked = [row for row in own if row.attack != "none" and row.tier != Tier.CLEAN]
    if not attacked:
        return ""
    clean = next((row for row in own if row.tier == Tier.CLEAN), None)
    sentences = [f"Of the answers behind `{ours}`, {cell(clean)} are right on clean images."]
    for tier, who in _WORDS.items():
        found = [row for row in attacked if row.tier == tier]
        if found:
            worst = min(found, key=lambda row: row.value)
            sentences.append(f"{tier.upper()}, {who}, leaves {_left(worst)}.")
    worst_of_all = sorted(attacked, key=lambda row: row.value)[:_NUM_WORST]
    furthest = "; ".join(f"{row.tier.upper()} {_left(row)}" for row in worst_of_all)
    sentences.append(f"What goes furthest: {furthest}.")
    sentences += _better(rows, attacked)
    return "## What breaks the defence\n\n" + " ".join(sentences)


def _counts(row: Row) -> bool:
    """Accuracy, or the worst of ten sendings; single points of the step curve are no headline."""
    is_accuracy = row.metric == "accuracy" or row.metric.startswith("accuracy_worst_of")
    return row.task == "vqa" and is_accuracy and not row.attack.endswith(CURVE_SUFFIX)


def _left(row: Row) -> str:
    where = f" at {radius(row.epsilon)}" if 0 < row.epsilon < 1 else ""
    return f"{cell(row)} by {row.attack}{where} (n = {row.n})"


def _better(rows: Sequence[Row], attacked: Sequence[Row]) -> list[str]:
    """Where another defence holds better against the very same uploads."""
    ahead = []
    for row in attacked:
        same = (row.tier, row.attack, row.epsilon, row.metric, row.task, row.n)
        rivals = [
            other
            for other in rows
            if other.defence not in {*OURS, "none", "prompt"}
            and (other.tier, other.attack, other.epsilon, other.metric, other.task, other.n) == same
        ]
        best = max(rivals, key=lambda other: other.value, default=row)
        if best.low > row.high:
            ahead.append(f"{best.defence} under {row.tier.upper()} {row.attack} ({cell(best)})")
    return [f"Another defence does better: {'; '.join(ahead)}."] if ahead else []


def oblivious_notes(context: EvalContext, trials: Sequence[Trial]) -> str:
    """What a reader of the first table must know: settings, and how the figures were made."""
    plan = context.oblivious
    lines = [
        f"Attacks: {plan.attack}, {plan.steps} steps, {plan.restarts} restarts, all against the "
        "undefended model, rounded to whole levels and re-read from PNG. Without a suffix the "
        "cross-entropy of the right caption and answers is moved (of the target caption, where "
        "targeted), with -margin their capped margin, with -encoder the features. Each image is "
        f"attacked once for all its answers; {UNION} counts an answer that any of the untargeted "
        "attacks at the radius spoils. Random defences drew their noise anew for "
        f"{plan.seeds} seeds, deterministic ones give the same for every seed.",
        "Brackets are 95 % intervals: Wilson's for rates, a bootstrap over scenes for the rest. "
        "Repetitions under other seeds do not count as items.",
        "Targeted success is an exact normalised match to the caption of another test scene that "
        "shares no object. Untargeted success (in report.json) counts items that the same "
        "condition answers rightly on the clean image.",
        "Settings, of the baselines each the most accurate on attacked validation scenes:",
        "",
        *(f"- {c.name}: {c.defence.setting}" for c in context.conditions if c.defence.setting),
        "",
        f"{len(trials)} settings were tried:",
    ]
    tried = [
        [f"{t.defence.name} {t.defence.setting}", f"{t.attacked:.1%}", f"{t.clean:.1%}"]
        for t in trials
    ]
    is_asked = any(scene.questions for scene in context.scenes)
    what = "VQA" if is_asked else "CIDEr, %"
    table = Table(["setting", f"attacked {what}", f"clean {what}"], tried).markdown()
    return "\n".join([*lines, "", table])


def tier_notes(context: EvalContext, tiers: Collection[Tier], *, num_services: int) -> str:
    """One paragraph a tier."""
    plan, oblivious = context.tiers, context.oblivious
    goals = " and ".join(plan.goals)
    search = f"{oblivious.attack} on {goals}, {plan.steps} steps"
    surrogate = context.surrogate.setting if context.surrogate else "none"
    notes = {
        Tier.TRANSFER: f"T1: {search}, through a surrogate purifier ({surrogate}), "
        f"its noise level drawn anew, {plan.num_draws_transfer} draws averaged at every step; the "
        "same images for every defence. A defence with the surrogate's own weights is no stranger "
        "to it.",
        Tier.WHITE_BOX: f"T2: {search}, through each defence and its prompt, "
        f"{_draws(plan)} averaged at every step where it draws noise. Every gradient of "
        f"{', '.join(plan.gradients)} that a defence has makes its own images (exact replays each "
        "step's noise; defences that draw none are attacked by all that they have); "
        f"{plan.num_focused} further rounds (-left) attack alone the answers that all before left "
        f"standing, {plan.num_focused_still} where no noise is drawn. "
        "worst-of-all counts an answer that any of these, of T0's or of T1's images spoils: the "
        "attacker chooses the upload by the answer. Rows with -curve repeat the exact attack of "
        f"every answer at once with other numbers of steps and {plan.num_draws_curve} draws on "
        "fewer scenes. accuracy_lost is in points, paired by scene.",
        Tier.RESUBMISSION: f"T3: each upload is sent {plan.num_repeats} times and purified anew. "
        "accuracy is the mean, worst counts an answer that is ever wrong, majority takes the most "
        "frequent text; clean images (attack none) lose by it too. Draws of noise are no defence "
        "against an attacker who may try again.",
        Tier.QUERY: "T4: Square and MF-tt see texts alone; steps are HTTP requests for each image, "
        "one for the caption and one for each question of every look. -full and -minimal name what "
        "the service disclosed; these attackers use none of it. Scored by what the service itself "
        "answers, asked anew for every seed.",
    }
    told = [note for tier, note in notes.items() if tier in tiers]
    if Tier.QUERY in tiers and num_services == 0:
        told.append("**T4 was not run: no --defence-url was given.**")
    return "\n\n".join(told)


def _draws(plan: TierSettings) -> str:
    if plan.num_draws == plan.num_draws_network:
        return f"{plan.num_draws} draws"
    return f"{plan.num_draws} draws ({plan.num_draws_network} of a network's)"


def check_notes(checks: Sequence[Check]) -> str:
    """Every check with its outcome and reason, as a section."""
    if not checks:
        return ""
    lines = [
        f"- {'passed' if check.passed else '**FAILED**'}: {check.name}: {check.reason}"
        for check in checks
    ]
    return "\n".join(["## Checks", "", *lines])
