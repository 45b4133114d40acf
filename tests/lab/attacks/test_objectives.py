"""Each objective goes up under attack, on a LLaVA, image by image."""

import pytest
import torch

from codefend.lab.attacks.gradient import PGD
from codefend.lab.attacks.objectives import (
    answer_margin,
    encoder_distance,
    image_text_matching,
    language_objective,
    mean_of,
    prototype_guided,
    targeted_loss,
    untargeted_loss,
)
from codefend.lab.victims.dialogue import Dialogue

ASKED = "what is at the top left?"
TRUTHS = [[Dialogue(ASKED, "a red car"), Dialogue("describe the image.", "a cat")]] * 3
TARGETS = [Dialogue("describe the image.", text) for text in ("a cat", "yes", "a red car")]


def objectives(victim, photos):
    return {
        "untargeted": untargeted_loss(victim, TRUTHS),
        "margin": answer_margin(victim, TRUTHS),
        "targeted": targeted_loss(victim, TARGETS),
        "cosine": encoder_distance(victim, photos),
        "l2": encoder_distance(victim, photos, metric="l2"),
        "towards": encoder_distance(victim, photos.roll(1, 0), towards=True),
        "matching": image_text_matching(victim, [target.answer for target in TARGETS]),
        "mismatching": image_text_matching(victim, ["a cat"] * 3, towards=False),
        "prototype": prototype_guided(victim, photos, photos),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("untargeted", "margin", "targeted", "cosine", "l2", "towards"),
        *("matching", "mismatching", "prototype"),
    ],
)
def test_attack_raises_objective(name, victim, photos):
    objective = objectives(victim, photos)[name]
    generator = torch.Generator().manual_seed(0)
    adversarial = PGD(epsilon=16 / 255, steps=3)(photos, objective, generator=generator)
    with torch.no_grad():
        before, after = objective(photos), objective(adversarial)
    assert before.shape == (3,)
    assert (after > before).all()


def test_targeted_loss_is_minus_the_untargeted(victim, photos):
    target = targeted_loss(victim, TARGETS)
    away = untargeted_loss(victim, [[target] for target in TARGETS])
    torch.testing.assert_close(target(photos), -away(photos))


def test_own_features_are_at_distance_zero(victim, photos):
    assert encoder_distance(victim, photos)(photos).abs().max() < 1e-5


def test_one_function_knows_what_a_goal_makes_of_the_truth(victim, photos):
    for goal, expected in (("language", untargeted_loss), ("margin", answer_margin)):
        chosen = language_objective(goal, victim, TRUTHS)
        torch.testing.assert_close(chosen(photos), expected(victim, TRUTHS)(photos))
    with pytest.raises(ValueError, match="no answer"):
        language_objective("encoder", victim, TRUTHS)


def test_mean_of_objectives(victim, photos):
    own, other = objectives(victim, photos)["cosine"], objectives(victim, photos)["margin"]
    mean = mean_of([own, other])(photos)
    torch.testing.assert_close(mean, (own(photos) + other(photos)) / 2)
    assert mean_of([own]) is own


def test_matching_is_the_cosine_to_the_mean_word_embedding(victim, photos):
    ids = victim.processor.tokenizer("a red car", add_special_tokens=False)["input_ids"]
    wanted = victim.model.get_input_embeddings().weight[ids].mean(dim=0)
    tokens = victim.image_tokens(photos)
    expected = torch.cosine_similarity(tokens, wanted.expand_as(tokens), dim=-1).mean(dim=1)
    found = image_text_matching(victim, ["a red car"] * 3)(photos)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="without tokens"):
        image_text_matching(victim, ["", "", ""])


def test_prototype_guides_to_the_least_similar_anchor(victim, photos):
    """An image that is its own anchor is guided to another; being there is the best there is."""
    objective = prototype_guided(victim, photos[:2], photos[:2])
    torch.testing.assert_close(objective(photos[:2]), -objective(photos[:2].flip(0)))
    assert (objective(photos[:2].flip(0)) > 0).all()
    with pytest.raises(ValueError, match="two anchors"):
        prototype_guided(victim, photos[:1], photos[:1])
