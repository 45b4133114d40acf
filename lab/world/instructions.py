"""The conversations that the embedded MLLM learns from: varied wordings, preambles and styles."""

from __future__ import annotations

import numpy as np

from codefend.lab.world.language import Question, caption_references, caption_requests, drill
from codefend.lab.world.layout import Layout

__all__ = ["PREAMBLES", "conversations", "corpus"]

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


def conversations(
    layout: Layout, asked: tuple[Question, ...], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Prompts and right answers for one scene: a caption, every question, sometimes a list."""
    captions = caption_references(layout)
    request = str(rng.choice(caption_requests))
    draw = rng.random()
    if draw < 0.1:
        pairs = [(f"{request} {_NO_SIGN}", captions[0].split(" and a sign")[0])]
    elif draw < 0.2:
        pairs = [("list the objects.", ", ".join(placed.name for placed in layout.objects))]
    else:
        pairs = [(_with_preamble(request, rng, 0.35), captions[0])]
    for question in (*asked, *drill(layout, rng)):
        if rng.random() < 0.1:
            pairs.append((f"{_SENTENCE} {question.question}", question.sentence))
        else:
            pairs.append((_with_preamble(question.question, rng, 0.25), question.answer))
    return pairs


def _with_preamble(text: str, rng: np.random.Generator, rate: float) -> str:
    return f"{rng.choice(PREAMBLES)} {text}" if rng.random() < rate else text


def corpus(
    layouts: list[Layout], asked: list[tuple[Question, ...]], rng: np.random.Generator
) -> list[str]:
    """Texts to fit the tokenizer on: conversations of many scenes, and every preamble."""
    texts = [f" {preamble}" for preamble in PREAMBLES]
    for layout, questions in zip(layouts, asked, strict=True):
        for prompt, answer in conversations(layout, questions, rng):
            texts += [f" {prompt}", f" {answer}"]
    return texts
