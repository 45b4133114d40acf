"""Questions are reworded a little, to the attacker's best, in turn with the image."""

import pytest
import torch

from codefend.lab.attacks.joint import JointAttack, RewordedLoss, rewordings
from codefend.lab.attacks.objectives import answer_score
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.likelihood import DialogueLoss

TRUTHS = [[Dialogue("what is at the top left?", "a red car"), Dialogue("is there a cat?", "no")]]


def test_each_rewording_changes_one_small_thing():
    prompt = "where can i find the umbrella?"
    found = rewordings(prompt, generator=torch.Generator().manual_seed(0))
    assert found[0] == prompt
    assert len(found) == len(set(found)) == 8
    for text in found[4:]:
        places = [i for i, (a, b) in enumerate(zip(prompt, text, strict=True)) if a != b]
        assert len(places) == 2
        assert places[1] == places[0] + 1
        assert sorted(text) == sorted(prompt)
        words = list(zip(prompt.split(), text.split(), strict=True))
        assert all(a[0] == b[0] and len(a) >= 5 for a, b in words if a != b)
    assert all(prompt.rstrip("?") in text for text in found[1:4])


def test_short_words_are_left_alone():
    assert len(rewordings("is it a lion?")) == 4
    assert rewordings("?") == ["?", "please answer: ?", "look at the picture. ?"]


def test_rewording_takes_the_worst_wording_of_each_question(victim, photos):
    score = answer_score("language")
    loss = RewordedLoss([victim], TRUTHS * 2, score, generator=torch.Generator().manual_seed(0))
    assert loss.prompts == [tuple(d.prompt for d in TRUTHS[0])] * 2
    with torch.no_grad():
        before = loss(photos[:2])
        loss.reword(photos[:2])
        after = loss(photos[:2])
    assert (after > before).all()
    offered = [rewordings(d.prompt, num_typos=99, generator=torch.Generator()) for d in TRUTHS[0]]
    for image, prompts in enumerate(loss.prompts):
        for prompt, texts, truth in zip(prompts, offered, TRUTHS[0], strict=True):
            assert prompt in texts
            with torch.no_grad():
                own, original = (
                    DialogueLoss(victim, [[Dialogue(text, truth.answer)]])(photos[image][None])
                    for text in (prompt, truth.prompt)
                )
            assert own >= original - 1e-4


class Counting:
    """An objective that notes in which order image and wording are asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, images):
        self.asked.append("image")
        return images.flatten(1).mean(dim=1)

    def reword(self, images):
        self.asked.append("text")


def test_image_and_text_change_in_turn():
    objective = Counting()
    JointAttack(epsilon=0.1, steps=6, rounds=2)(torch.zeros(1, 3, 4, 4), objective)
    three = ["image"] * 3
    assert objective.asked == ["text", *three, "text", *three, "text", "image", "text"]


def test_joint_is_stronger_than_the_text_alone_and_left_worded_for_its_images(victim, photos):
    generator = torch.Generator().manual_seed(0)
    loss = RewordedLoss([victim], TRUTHS * 3, answer_score("language"), generator=generator)
    attack = JointAttack(epsilon=8 / 255, steps=6, rounds=2)
    attacked = attack(photos, loss, generator=torch.Generator().manual_seed(1))
    together, prompts = loss(attacked), loss.prompts
    loss.reword(attacked)
    assert loss.prompts == prompts
    loss.reword(photos)
    assert (together > loss(photos)).all()


def test_rounds_must_be_some():
    with pytest.raises(ValueError, match="rounds must"):
        JointAttack(epsilon=0.1, steps=6, rounds=0)
