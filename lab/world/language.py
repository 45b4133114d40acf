"""What may be asked of a layout and what is right: captions, questions, answers, paraphrases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codefend.lab.world.layout import CELL_NAMES, KINDS, Layout, Placed

__all__ = [
    "CANNOT_TELL",
    "Question",
    "caption_references",
    "caption_requests",
    "drill",
    "questions",
]

CANNOT_TELL = "i cannot tell"
SIGNLESS_RATE = 0.1
"""Share of scenes without a readable sign that are asked what their sign says."""

_NUMBERS = ("zero", "one", "two", "three")
_PLURALS = {"animal": "animals", "food": "foods", "vehicle": "vehicles", "thing": "things"}
_CATEGORY_OF = {kind.name: kind.category for kind in KINDS}
CATEGORIES = tuple(_PLURALS)

caption_requests: tuple[str, ...] = (
    "describe the image.",
    "what is in the image?",
    "write a caption for this picture.",
    "what do you see?",
    "please describe this photo in one sentence.",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its only right answer, its type (``kind``), and the answer as a sentence."""

    question: str
    answer: str
    kind: str
    sentence: str = CANNOT_TELL


def article(name: str) -> str:
    """``name`` with its indefinite article; plural names take none."""
    if name == "grapes":
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def caption_references(layout: Layout) -> tuple[str, ...]:
    """Five right captions; the first is the one that the embedded MLLM is taught to give."""
    names = [article(placed.name) for placed in layout.objects]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    related = _relate(layout.objects, listed)
    placed = ", ".join(f"{article(p.name)} at the {CELL_NAMES[p.cell]}" for p in layout.objects)
    sign = _sign_phrase(layout)
    return (
        f"{related}{sign}",
        f"{listed}{sign}",
        f"{placed}{sign}",
        f"a picture of {listed}{sign}",
        f"there is {related}{sign}",
    )


def _relate(objects: tuple[Placed, ...], listed: str) -> str:
    if len(objects) == 1:
        return f"{listed} at the {CELL_NAMES[objects[0].cell]}"
    if len(objects) == 2:
        first, second = objects
        relation = "above" if first.cell % 3 == second.cell % 3 else "to the left of"
        return f"{article(first.name)} {relation} {article(second.name)}"
    return listed


def _sign_phrase(layout: Layout) -> str:
    if layout.sign is None:
        return ""
    return " and a sign" if layout.sign_blur else f" and a sign that says {layout.sign.name}"


def questions(layout: Layout, rng: np.random.Generator) -> tuple[Question, ...]:
    """One question of each type, wording drawn from ``rng``; some ask for what is not there.

    Most scenes have no sign: those are seldom asked what it says, or "i cannot tell" would be
    right so often that the question alone gave the answer away.
    """
    asked = [ask(layout, rng) for ask in _ASKERS]
    if asked[-1].answer == CANNOT_TELL and rng.random() >= SIGNLESS_RATE:
        asked.pop()
    return tuple(asked)


def drill(layout: Layout, rng: np.random.Generator) -> tuple[Question, ...]:
    """More of what is learned last, because every name must be matched to its look."""
    return tuple(ask(layout, rng) for ask in (_ask_exists, _ask_where) for _ in range(2))


def _pick(rng: np.random.Generator, *wordings: str) -> str:
    return wordings[int(rng.integers(len(wordings)))]


def _absent(layout: Layout, rng: np.random.Generator) -> str:
    present = {placed.name for placed in layout.objects}
    return str(rng.choice([kind.name for kind in KINDS if kind.name not in present]))


def _ask_what(layout: Layout, rng: np.random.Generator) -> Question:
    taken = {placed.cell: placed.name for placed in layout.objects}
    if rng.random() < 0.15:
        signs = [layout.sign.cell] if layout.sign else []
        cell = int(rng.choice([c for c in range(9) if c not in taken and c not in signs]))
    else:
        cell = int(rng.choice(list(taken)))
    place = CELL_NAMES[cell]
    text = _pick(
        rng,
        f"what is at the {place}?",
        f"which object is at the {place}?",
        f"what stands at the {place}?",
    )
    if cell not in taken:
        return Question(text, CANNOT_TELL, "what")
    return Question(text, taken[cell], "what", f"there is {article(taken[cell])} at the {place}")


def _ask_where(layout: Layout, rng: np.random.Generator) -> Question:
    places = {placed.name: CELL_NAMES[placed.cell] for placed in layout.objects}
    name = _absent(layout, rng) if rng.random() < 0.15 else str(rng.choice(list(places)))
    text = _pick(
        rng,
        f"where is the {name}?",
        f"in which part of the image is the {name}?",
        f"where can i find the {name}?",
    )
    if name not in places:
        return Question(text, CANNOT_TELL, "where")
    return Question(text, places[name], "where", f"the {name} is at the {places[name]}")


def _ask_count(layout: Layout, rng: np.random.Generator) -> Question:
    if rng.random() < 0.5:
        text = _pick(
            rng, "how many objects are there?", "how many things do you see besides signs?"
        )
        return _counted(text, len(layout.objects))
    category = str(rng.choice(CATEGORIES))
    count = sum(_CATEGORY_OF[placed.name] == category for placed in layout.objects)
    plural = _PLURALS[category]
    text = _pick(rng, f"how many {plural} are there?", f"how many {plural} can you see?")
    if category == "thing":
        text = "how many objects that are not animals, foods or vehicles are there?"
    return _counted(text, count)


def _counted(text: str, count: int) -> Question:
    return Question(text, _NUMBERS[count], "count", f"i count {_NUMBERS[count]}")


def _ask_exists(layout: Layout, rng: np.random.Generator) -> Question:
    is_present = rng.random() < 0.5
    name = str(rng.choice([p.name for p in layout.objects])) if is_present else _absent(layout, rng)
    text = _pick(
        rng,
        f"is there {article(name)}?",
        f"do you see {article(name)}?",
        f"does the image show {article(name)}?",
    )
    sentence = f"yes, there is {article(name)}" if is_present else f"no, there is no {name}"
    return Question(text, "yes" if is_present else "no", "exists", sentence)


def _ask_which(layout: Layout, rng: np.random.Generator) -> Question:
    by_category: dict[str, list[str]] = {}
    for placed in layout.objects:
        by_category.setdefault(_CATEGORY_OF[placed.name], []).append(placed.name)
    single = {category: names[0] for category, names in by_category.items() if len(names) == 1}
    if single and rng.random() >= 0.15:
        category = str(rng.choice(list(single)))
    else:
        category = str(rng.choice([c for c in CATEGORIES if c not in by_category]))
    word = "other object" if category == "thing" else category
    text = _pick(
        rng, f"which {word} is it?", f"which {word} is shown?", f"what kind of {word} do you see?"
    )
    if category not in single:
        return Question(text, CANNOT_TELL, "which")
    return Question(text, single[category], "which", f"it is {article(single[category])}")


def _ask_sign(layout: Layout, rng: np.random.Generator) -> Question:
    text = _pick(
        rng, "what does the sign say?", "which word is written on the sign?", "read the sign."
    )
    if layout.sign is None or layout.sign_blur:
        return Question(text, CANNOT_TELL, "sign")
    return Question(text, layout.sign.name, "sign", f"the sign says {layout.sign.name}")


_ASKERS: tuple[Callable[[Layout, np.random.Generator], Question], ...] = (
    _ask_what,
    _ask_where,
    _ask_count,
    _ask_exists,
    _ask_which,
    _ask_sign,
)
