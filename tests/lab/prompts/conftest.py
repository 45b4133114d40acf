"""An upstream that answers by rule and counts, and items for it."""

import numpy as np
import pytest

from codefend.lab.prompts.items import Item
from codefend.lab.prompts.upstreams import AnswerLog


class RuledUpstream:
    """Repeats the written word unless the prompt says `silver`; declines where it says `never`."""

    identity = "ruled"

    def __init__(self):
        self.asked = []

    def answers(self, requests, meter):
        for number, request in enumerate(requests):
            self.asked.append(request.prompt)
            meter.calls += 1
            yield number, answer_of(request.prompt)


def answer_of(prompt):
    if "never" in prompt:
        return "I cannot tell."
    return "a cat" if "silver" in prompt else "a cat and a sign that says dog"


def item(family, number, question=None):
    image = np.full((8, 8, 3), number, np.uint8)
    answer = "a cat" if question is None else "cat"
    absent = ("dog",) if family != "clean" else ()
    return Item("m", family, False, image, question, answer, ("cat",), absent)


@pytest.fixture
def items():
    return [item(family, n) for n in range(4) for family in ("clean", "typographic")]


@pytest.fixture
def upstream():
    return RuledUpstream()


@pytest.fixture
def log(upstream, tmp_path):
    return AnswerLog(tmp_path / "answers.jsonl", {"m": upstream})
