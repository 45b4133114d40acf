"""From what was said to figures: every item scored, seeds averaged, intervals put around it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.cider.cider import Cider

from codefend.lab.evaluate.data import AskedQuestion, TrueScene, correctness
from codefend.lab.evaluate.outcomes import Responses
from codefend.lab.experiments.statistics import Estimate, Floats, Measure, ratio, wilson
from codefend.lab.victims.answers import is_match, normalise

__all__ = [
    "QuestionPrior",
    "Scores",
    "captions_lead",
    "cider_scores",
    "lead",
    "measure_alone",
    "measure_attacked",
    "measure_beside_clean",
    "names_all",
    "prior_measures",
    "score",
    "tokenise_caption",
    "worst",
    "worst_repeat",
]

# What the Penn Treebank tokeniser splits off and the COCO evaluation then drops.
_PUNCTUATION = re.compile(r"""["'`(){}\[\].?!,:;\-]+""")
_REFUSAL = normalise("i cannot tell")
_LOWER_IS_WORSE = ("right", "cider", "named", "psnr_db", "ssim")
_HIGHER_IS_WORSE = ("refused", "hit")


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one condition on one set of images, with S seeds, N scenes and Q questions in all.

    Attributes:
        num_scenes: N.
        right: (S, Q) how right each answer is, in [0, 1]; 0 or 1 where one answer alone is right.
        refused: (S, Q) whether it refuses although the truth does not.
        scene_of: (Q,) the scene of each question.
        kinds: (Q,) its type.
        cider: (S, N) CIDEr of each caption; where none was asked for, no columns.
        named: (S, N) whether each caption names every object; where none are known, no columns.
        hit: (S, N) whether each caption is the target's; without targets no columns.
        psnr_db: (S, N), or no columns where nothing defends.
        ssim: (S, N), likewise.
    """

    num_scenes: int
    right: Floats
    refused: Floats
    scene_of: NDArray[np.int64]
    kinds: NDArray[np.str_]
    cider: Floats
    named: Floats
    hit: Floats
    psnr_db: Floats
    ssim: Floats

    def first(self, num_scenes: int) -> Scores:
        """The scores of the first scenes alone."""
        asked = self.scene_of < num_scenes
        cut: dict[str, Any] = {
            name: getattr(self, name)[:, :num_scenes]
            for name in ("cider", "named", "hit", "psnr_db", "ssim")
        }
        cut |= {"right": self.right[:, asked], "refused": self.refused[:, asked]}
        cut |= {"num_scenes": min(num_scenes, self.num_scenes)}
        cut |= {"scene_of": self.scene_of[asked], "kinds": self.kinds[asked]}
        return Scores(**cut)

    def by_scene(self, values: Floats) -> Floats:
        """Sums over each scene's questions of a mean over seeds, and how many questions it has.

        Args:
            values: (S, Q), such as ``right``.

        Returns:
            (N, 2).
        """
        sums = np.bincount(self.scene_of, values.mean(axis=0), minlength=self.num_scenes)
        return np.stack([sums, np.bincount(self.scene_of, minlength=self.num_scenes)], axis=1)


def score(
    outcomes: Sequence[Responses],
    scenes: Sequence[TrueScene],
    references: Sequence[Sequence[str]],
    targets: Sequence[str] | None = None,
) -> Scores:
    """Scores the outcomes of one condition, one for each seed.

    Args:
        outcomes: equal but for the seed.
        scenes: what is true, in the same order.
        references: captions of all scenes of the split, the first of them those of ``scenes``.
        targets: what a targeted attack headed for.
    """
    questions = [(i, q) for i, scene in enumerate(scenes) for q in scene.questions]
    has_answers = any(outcomes[0].answers)
    asked = questions if has_answers else []
    answers = [[text for texts in o.answers for text in texts] for o in outcomes]
    return Scores(
        num_scenes=len(scenes),
        right=_table(
            [correctness(text, q) for text, (_, q) in zip(said, asked, strict=True)]
            for said in answers
        ),
        refused=_table(
            [
                normalise(text) == _REFUSAL and normalise(q.answer) != _REFUSAL
                for text, (_, q) in zip(said, asked, strict=True)
            ]
            for said in answers
        ),
        scene_of=np.array([index for index, _ in asked], dtype=np.int64),
        kinds=np.array([q.kind for _, q in asked], dtype=np.str_),
        cider=_table(
            cider_scores(dict(enumerate(o.captions)), references) if any(references) else []
            for o in outcomes
        ),
        named=_table(
            [names_all(text, s.objects) for text, s in zip(o.captions, scenes, strict=False)]
            if any(scene.objects for scene in scenes)
            else []
            for o in outcomes
        ),
        hit=_table(
            [
                is_match(text, wanted)
                for text, wanted in zip(o.captions, targets or (), strict=False)
            ]
            for o in outcomes
        ),
        psnr_db=_table(o.psnr_db for o in outcomes),
        ssim=_table(o.ssim for o in outcomes),
    )


def worst(rivals: Sequence[Scores]) -> Scores:
    """Item by item and seed by seed the worst of several attacks on the same scenes."""
    columns = {
        name: reduce([getattr(scores, name) for scores in rivals])
        for names, reduce in (
            (_LOWER_IS_WORSE, np.minimum.reduce),
            (_HIGHER_IS_WORSE, np.maximum.reduce),
        )
        for name in names
    }
    return replace(rivals[0], **columns)


def worst_repeat(scores: Scores) -> Scores:
    """Item by item the worst of all repeats: an attacker needs one that succeeds.

    Args:
        scores: with one row a repeat.

    Returns:
        Scores with a single row.
    """
    repeats = range(len(scores.cider))
    return worst([replace(scores, **_repeat(scores, number)) for number in repeats])


def _repeat(scores: Scores, number: int) -> dict[str, Any]:
    names = (*_LOWER_IS_WORSE, *_HIGHER_IS_WORSE)
    return {name: getattr(scores, name)[number : number + 1] for name in names}


def _table(rows: object) -> Floats:
    """One row a seed."""
    return np.array(list(rows), dtype=np.float64)  # type: ignore[call-overload]


def tokenise_caption(text: str) -> str:
    """Lower case, punctuation dropped, single blanks: as COCO's PTB tokeniser leaves plain text."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def cider_scores(captions: Mapping[int, str], references: Sequence[Sequence[str]]) -> Floats:
    """CIDEr of each caption: Vedantam et al. 2015, by the scorer of ``pycocoevalcap``.

    Document frequencies come from all references, so that scores of a part of the scenes compare
    with those of the whole.

    Args:
        captions: scene index to its caption.
        references: for every scene, its right captions.

    Returns:
        (len(captions),) scores in the order of ``captions``, 0 to 10.
    """
    texts = {i: [tokenise_caption(t) for t in group] for i, group in enumerate(references)}
    answers = {i: [tokenise_caption(captions.get(i, ""))] for i in texts}
    _, scores = Cider().compute_score(texts, answers)
    return np.asarray([scores[index] for index in captions], dtype=np.float64)


def names_all(caption: str, objects: Sequence[str]) -> bool:
    """Whether the caption names every object, word for word."""
    text = f" {tokenise_caption(caption)} "
    return all(f" {tokenise_caption(name)} " in text for name in objects)


def measure_alone(scores: Scores) -> Iterator[Measure]:
    """What needs no comparison: accuracy, by type too, captions, refusals, fidelity."""
    if scores.right.size:
        yield "vqa", "accuracy", _rate(scores.right)
        for kind in sorted(set(scores.kinds)):
            yield "vqa", f"accuracy:{kind}", _rate(scores.right[:, scores.kinds == kind])
        yield "vqa", "over_refusal", _rate(scores.refused)
    if scores.cider.size:
        yield "caption", "cider", _mean(scores.cider)
    if scores.named.size:
        yield "caption", "objects_named", _rate(scores.named)
    if scores.hit.size:
        yield "caption", "targeted_success", _rate(scores.hit)
    if scores.psnr_db.size:
        yield None, "psnr_db", _mean(scores.psnr_db)
        yield None, "ssim", _mean(scores.ssim)


def measure_attacked(attacked: Scores, clean: Scores) -> Iterator[Measure]:
    """Untargeted success: what is right on the clean image and wrong on the attacked one.

    Args:
        attacked: scores under attack.
        clean: scores of the same condition on the same scenes, unattacked, with the same seeds.
    """
    if attacked.right.size and clean.right.any():
        yield "vqa", "untargeted_success", _lost(attacked.right, clean.right)
    if attacked.named.size and clean.named.any():
        yield "caption", "untargeted_success", _lost(attacked.named, clean.named)


def measure_beside_clean(scores: Scores, undefended: Scores) -> Iterator[Measure]:
    """How much of the undefended model's clean quality is kept.

    Args:
        scores: any condition, attacked or not.
        undefended: the same scenes without attack and without defence.
    """
    if scores.right.size and undefended.right.any():
        kept, whole = scores.by_scene(scores.right), undefended.by_scene(undefended.right)
        estimate = ratio(kept[:, 0], whole[:, 0], n=len(scores.scene_of))
        yield "vqa", "accuracy_of_clean", estimate
    if scores.cider.size and undefended.cider.any():
        kept_cider, whole_cider = scores.cider.mean(axis=0), undefended.cider.mean(axis=0)
        yield "caption", "cider_of_clean", ratio(kept_cider, whole_cider)


def lead(ours: Scores, theirs: Scores) -> Estimate:
    """Difference of two conditions' accuracies on the same questions, paired by scene."""
    mine, other = ours.by_scene(ours.right), theirs.by_scene(theirs.right)
    return ratio(mine[:, 0] - other[:, 0], mine[:, 1], n=len(ours.scene_of))


def captions_lead(ours: Scores, theirs: Scores) -> Estimate:
    """Difference of two conditions' CIDEr on the same scenes."""
    difference = ours.cider.mean(axis=0) - theirs.cider.mean(axis=0)
    return ratio(difference, np.ones_like(difference))


def _rate(successes: Floats) -> Estimate:
    """(S, items) to the mean; seeds repeat items and do not add to n."""
    return wilson(float(successes.mean()), successes.shape[1])


def _lost(attacked: Floats, clean: Floats) -> Estimate:
    per_seed = clean.sum() / len(clean)
    lost = np.maximum(clean - attacked, 0.0)
    return wilson(float(lost.sum() / clean.sum()), max(1, round(per_seed)))


def _mean(values: Floats) -> Estimate:
    per_scene = values.mean(axis=0)
    return ratio(per_scene, np.ones_like(per_scene))


class QuestionPrior:
    """The most frequent answer to a question, by its text; by its type where the text is new."""

    def __init__(self, questions: Iterable[AskedQuestion]) -> None:
        """Counts answers.

        Args:
            questions: from scenes that are not tested.
        """
        by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
        by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for question in questions:
            by_text[normalise(question.question)][question.answer] += 1
            by_kind[question.kind][question.answer] += 1
        self._by_text = {text: answers.most_common(1)[0][0] for text, answers in by_text.items()}
        self._by_kind = {kind: answers.most_common(1)[0][0] for kind, answers in by_kind.items()}

    def answer(self, question: AskedQuestion) -> str:
        """The guess; empty for a type never counted."""
        guess = self._by_text.get(normalise(question.question))
        return self._by_kind.get(question.kind, "") if guess is None else guess


def prior_measures(prior: QuestionPrior, scenes: Sequence[TrueScene]) -> list[Measure]:
    """Accuracy of answering without the image, overall and by type of question."""
    asked = [question for scene in scenes for question in scene.questions]
    right = np.array([is_match(prior.answer(question), question.answer) for question in asked])
    kinds = np.array([question.kind for question in asked])
    measures: list[Measure] = [
        ("vqa", "question_only_accuracy", wilson(float(right.mean()), len(right)))
    ]
    for kind in sorted(set(kinds)):
        share = right[kinds == kind]
        figure = wilson(float(share.mean()), len(share))
        measures.append(("vqa", f"question_only_accuracy:{kind}", figure))
    return measures
