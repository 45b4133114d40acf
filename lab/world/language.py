"""What may be said and asked of a layout and what is right: captions, questions, answers.

The embedded MLLM learns from ``conversations``: the same in varied wordings, preambles and styles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codefend.lab.world.layout import CELL_NAMES, KINDS, Layout, Placed

__all__ = [
    "CANNOT_TELL",
    "PREAMBLES",
    "Question",
    "caption_references",
    "caption_requests",
    "conversations",
    "corpus",
    "instructions",
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

PREAMBLES: tuple[str, ...] = (
    "look carefully.",
    "look at the objects, not at the texture.",
    "the image may have been altered.",
    "the image may contain noise; ignore it.",
    "ignore strange patterns and trust the shapes.",
    "answer only from what you can see.",
    "be careful: somebody may try to mislead you.",
    "take your time.",
    "you are a helpful assistant.",
    "the picture was cleaned before you see it.",
    "if you are not sure, say i cannot tell.",
    "answer briefly.",
)
_SENTENCE = "answer in a sentence."
_NO_SIGN = "ignore the sign."
_LIST = "list the objects."


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
    text = f"{_pick(rng, 'what is', 'which object is', 'what stands')} at the {place}?"
    if cell not in taken:
        return Question(text, CANNOT_TELL, "what")
    return Question(text, taken[cell], "what", f"there is {article(taken[cell])} at the {place}")


def _ask_where(layout: Layout, rng: np.random.Generator) -> Question:
    places = {placed.name: CELL_NAMES[placed.cell] for placed in layout.objects}
    name = _absent(layout, rng) if rng.random() < 0.15 else str(rng.choice(list(places)))
    start = _pick(rng, "where is", "in which part of the image is", "where can i find")
    text = f"{start} the {name}?"
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
    text = f"how many {_PLURALS[category]} {_pick(rng, 'are there', 'can you see')}?"
    if category == "thing":
        text = "how many objects that are not animals, foods or vehicles are there?"
    return _counted(text, count)


def _counted(text: str, count: int) -> Question:
    return Question(text, _NUMBERS[count], "count", f"i count {_NUMBERS[count]}")


def _ask_exists(layout: Layout, rng: np.random.Generator) -> Question:
    is_present = rng.random() < 0.5
    name = str(rng.choice([p.name for p in layout.objects])) if is_present else _absent(layout, rng)
    start = _pick(rng, "is there", "do you see", "does the image show")
    text = f"{start} {article(name)}?"
    if is_present:
        return Question(text, "yes", "exists", f"yes, there is {article(name)}")
    return Question(text, "no", "exists", f"no, there is no {name}")


def _ask_which(layout: Layout, rng: np.random.Generator) -> Question:
    names = [placed.name for placed in layout.objects]
    categories = [_CATEGORY_OF[name] for name in names]
    single = {c: n for c, n in zip(categories, names, strict=True) if categories.count(c) == 1}
    if single and rng.random() >= 0.15:
        category = str(rng.choice(list(single)))
    else:
        category = str(rng.choice([c for c in CATEGORIES if c not in categories]))
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


def conversations(
    layout: Layout,
    asked: tuple[Question, ...],
    rng: np.random.Generator,
    *,
    instructs: bool = True,
) -> list[tuple[str, str]]:
    """Prompts and right answers for one scene: a caption, every question, sometimes a list.

    Args:
        layout: The scene.
        asked: Its questions.
        rng: Draws wordings.
        instructs: Whether some say how to look, what to ignore, or how to answer.
    """
    captions = caption_references(layout)
    request = str(rng.choice(caption_requests))
    draw = rng.random() if instructs else 1.0
    if draw < 0.1:
        pairs = [(f"{request} {_NO_SIGN}", captions[0].split(" and a sign")[0])]
    elif draw < 0.2:
        pairs = [(_LIST, ", ".join(placed.name for placed in layout.objects))]
    else:
        pairs = [(_with_preamble(request, rng, 0.35 * instructs), captions[0])]
    # More of what is learned last, because every name must be matched to its look.
    drill = [ask(layout, rng) for ask in (_ask_exists, _ask_where) for _ in range(2)]
    for question in (*asked, *drill):
        if rng.random() < 0.1 * instructs:
            pairs.append((f"{_SENTENCE} {question.question}", question.sentence))
        else:
            prompt = _with_preamble(question.question, rng, 0.25 * instructs)
            pairs.append((prompt, question.answer))
    return pairs


def _with_preamble(text: str, rng: np.random.Generator, rate: float) -> str:
    return f"{rng.choice(PREAMBLES)} {text}" if rng.random() < rate else text


def instructions() -> tuple[str, ...]:
    """Every fixed text that the embedded MLLM is taught to obey, questions apart."""
    return (*PREAMBLES, *caption_requests, _SENTENCE, _NO_SIGN, _LIST)


def corpus(
    layouts: list[Layout], asked: list[tuple[Question, ...]], rng: np.random.Generator
) -> list[str]:
    """Texts to fit the tokenizer on: conversations of many scenes, and every preamble."""
    texts = [f" {preamble}" for preamble in PREAMBLES]
    for layout, questions in zip(layouts, asked, strict=True):
        for prompt, answer in conversations(layout, questions, rng):
            texts += [f" {prompt}", f" {answer}"]
    return texts
