"""The white-box search: true gradients, text that reads back, a loss that only falls."""

import numpy as np
import pytest
import torch

from codefend.lab.prompts.items import Item
from codefend.lab.prompts.proposals import TokenSearch, WhiteBoxSettings
from codefend.lab.prompts.texts import parts
from codefend.lab.victims.dialogue import tokenise
from codefend.lab.victims.likelihood import UnpackedAnswers, mean_cross_entropy

AMOUNTS = WhiteBoxSettings(rounds=3, num_tokens=3, num_candidates=8, num_items=3)


@pytest.fixture
def found(victim):
    rng = np.random.default_rng(0)
    items = [
        Item(
            "tiny",
            "clean",
            False,
            rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
            None if number % 2 else "what is it?",
            "a cat",
            ("cat",),
            (),
        )
        for number in range(4)
    ]
    return TokenSearch(victim, items, seed=0, settings=AMOUNTS)


def test_the_loss_falls_and_the_question_stays(found):
    before = found.loss("look. {question}")
    text = found.run("look. {question}")
    assert text.count("{question}") == 1
    assert parts(text)[0] == "look."
    assert parts(text)[1]
    assert found.loss(text) <= before


def test_the_same_seed_gives_the_same_text(found, victim):
    again = TokenSearch(victim, found.items, seed=0, settings=AMOUNTS)
    other = TokenSearch(victim, found.items, seed=0, settings=AMOUNTS)
    assert again.run("{question} look at it") == other.run("{question} look at it")


def test_the_gradient_is_that_of_the_loss(found, victim):
    """Moving every embedding of a token a little changes the loss as the gradient says."""
    ids = found._padded("look at it")
    text = "{question} " + found._text(ids)
    gradient = found._gradient(text, ids)
    assert gradient.shape[0] == len(ids) >= 3
    embeddings = victim.model.get_input_embeddings()
    step, place = 1e-2, 1
    direction = gradient[place] / gradient[place].norm()
    kept = embeddings.weight.detach().clone()
    losses = []
    for sign in (1.0, -1.0):
        hook = embeddings.register_forward_hook(
            lambda module, inputs, output, sign=sign: shifted(
                output, inputs[0], ids, place, sign * step * direction
            )
        )
        losses.append(unpacked_loss(found, text))
        hook.remove()
    assert torch.equal(kept, embeddings.weight)
    slope = (losses[0] - losses[1]) / (2 * step)
    assert slope == pytest.approx(float(gradient[place].norm()), rel=0.05)


def shifted(output, asked, ids, place, change):
    """The embeddings, those of one token of the searched text moved."""
    moved = output.clone()
    wanted = torch.tensor(ids)
    for row in range(len(asked)):
        windows = asked[row].unfold(0, len(ids), 1)
        start = (windows == wanted).all(dim=1).nonzero().flatten().tolist()[-1]
        moved[row, start + place] += change
    return moved


def unpacked_loss(found, text):

    groups = [[tokenise(found.victim.processor, each)] for each in found._dialogues(text)]
    lengths = [len(each.after) - each.num_prompt for (each,) in groups]
    owner = torch.arange(len(groups)).repeat_interleave(torch.tensor(lengths))
    with torch.no_grad():
        logits, right = UnpackedAnswers(found.victim, groups)(found._images)
    return float(mean_cross_entropy(logits, right, owner).mean())
