"""From marks to figures with intervals: one function for each kind of figure in a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from codefend.lab.evaluate.marks import Marks
from codefend.lab.experiments.statistics import Estimate, Floats, Measure, ratio, wilson

__all__ = ["lead", "measure_alone", "measure_attacked", "measure_beside_clean"]


def measure_alone(marks: Marks) -> Iterator[Measure]:
    """What needs no comparison: accuracy, by type too, captions, refusals, fidelity."""
    if marks.right.size:
        yield "vqa", "accuracy", _rate(marks.right)
        for kind in sorted(set(marks.kinds)):
            yield "vqa", f"accuracy:{kind}", _rate(marks.right[:, marks.kinds == kind])
        yield "vqa", "over_refusal", _rate(marks.refused)
    if marks.cider.size:
        yield "caption", "cider", _mean(marks.cider)
    if marks.named.size:
        yield "caption", "objects_named", _rate(marks.named)
    if marks.hit.size:
        yield "caption", "targeted_success", _rate(marks.hit)
    if marks.psnr_db.size:
        yield None, "psnr_db", _mean(marks.psnr_db)
        yield None, "ssim", _mean(marks.ssim)


def measure_attacked(attacked: Marks, clean: Marks) -> Iterator[Measure]:
    """Untargeted success: what is right on the clean image and wrong on the attacked one.

    Args:
        attacked: marks under attack.
        clean: marks of the same condition on the same scenes, unattacked, with the same seeds.
    """
    if attacked.right.size and clean.right.any():
        yield "vqa", "untargeted_success", _lost(attacked.right, clean.right)
    if attacked.named.size and clean.named.any():
        yield "caption", "untargeted_success", _lost(attacked.named, clean.named)


def measure_beside_clean(marks: Marks, undefended: Marks) -> Iterator[Measure]:
    """How much of the undefended model's clean quality is kept.

    Args:
        marks: any condition, attacked or not.
        undefended: the same scenes without attack and without defence.
    """
    num_scenes = undefended.cider.shape[1]
    if marks.right.size and undefended.right.any():
        kept, whole = marks.right_by_scene(num_scenes), undefended.right_by_scene(num_scenes)
        estimate = ratio(kept[:, 0], whole[:, 0], n=len(marks.scene_of))
        yield "vqa", "accuracy_of_clean", estimate
    if marks.cider.size and undefended.cider.any():
        kept_cider, whole_cider = marks.cider.mean(axis=0), undefended.cider.mean(axis=0)
        yield "caption", "cider_of_clean", ratio(kept_cider, whole_cider)


def lead(ours: Marks, theirs: Marks) -> Estimate:
    """Difference of two conditions' accuracies on the same questions, paired by scene."""
    num_scenes = ours.cider.shape[1]
    mine, other = ours.right_by_scene(num_scenes), theirs.right_by_scene(num_scenes)
    return ratio(mine[:, 0] - other[:, 0], mine[:, 1], n=len(ours.scene_of))


def _rate(successes: Floats) -> Estimate:
    """(S, items) to the mean; seeds repeat items and do not add to n."""
    return wilson(float(successes.mean()), successes.shape[1])


def _lost(attacked: Floats, clean: Floats) -> Estimate:
    per_seed = clean.sum() / len(clean)
    return wilson(float((clean * (1 - attacked)).sum() / clean.sum()), round(per_seed))


def _mean(values: Floats) -> Estimate:
    per_scene = values.mean(axis=0)
    return ratio(per_scene, np.ones_like(per_scene))
