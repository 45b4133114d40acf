"""The attack suite, then the tiers beyond T0; what several need is made once and kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.tiers.assess import Assessor
from codefend.lab.evaluate.tiers.bench import Bench
from codefend.lab.evaluate.tiers.families import family_rows
from codefend.lab.evaluate.tiers.query import query_rows
from codefend.lab.evaluate.tiers.resubmission import resubmission_rows
from codefend.lab.evaluate.tiers.suite import Variant
from codefend.lab.evaluate.tiers.transfer import transfer_rows
from codefend.lab.evaluate.tiers.uploads import Uploader
from codefend.lab.evaluate.tiers.white_box import curve_rows, white_box_rows
from codefend.lab.experiments.report import Row
from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.victim import Victim

__all__ = ["tier_rows"]


def tier_rows(
    bench: Bench,
    tiers: Collection[Tier],
    services: Sequence[ServiceClient] = (),
    *,
    variants: Sequence[Variant] = (),
    surrogates: Sequence[Victim] = (),
) -> list[Row]:
    """Every figure of the suite and of the tiers beyond T0; resumes from the bench's folder.

    Args:
        bench: victim, scenes, conditions and plans.
        tiers: which of T1 to T4; T4 only where there are services. Without T0 among them, clean
            figures of the first scenes are given too.
        services: running services for T4.
        variants: of the attack suite, which T0 runs beside its own attacks.
        surrogates: further models of the ensemble's attacker.
    """
    uploader, assessor = Uploader(bench), Assessor.of(bench)
    rows: list[Row] = []
    if Tier.OBLIVIOUS not in tiers:
        uploads = uploader.clean(min(len(bench.scenes), max(bench.plan.num_scenes.values())))
        for condition in bench.conditions:
            marks = assessor.marks(condition, uploads)
            rows += assessor.rows(condition, uploads.threat, marks)
    if Tier.OBLIVIOUS in tiers:
        rows += family_rows(bench, variants, surrogates)
    if Tier.TRANSFER in tiers:
        rows += transfer_rows(uploader, assessor)
    if Tier.WHITE_BOX in tiers:
        rows += white_box_rows(uploader, assessor)
        rows += curve_rows(uploader, assessor)
    if Tier.RESUBMISSION in tiers:
        rows += resubmission_rows(uploader, assessor, tiers)
    if Tier.QUERY in tiers:
        rows += query_rows(assessor, services)
    return rows
