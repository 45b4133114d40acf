"""Packing changes no prediction, and losses equal the stock model's."""

import pytest
import torch

from codefend.lab.victims.dialogue import Dialogue, chat_prompt, tokenise
from codefend.lab.victims.generate import generate
from codefend.lab.victims.likelihood import (
    DialogueLoss,
    PackedAnswers,
    UnpackedAnswers,
    capped_margin,
    mean_cross_entropy,
)
from codefend.lab.victims.packing import pack

DIALOGUES = [
    [Dialogue("what is at the top left?", "a red car"), Dialogue("is there a cat?", "yes")],
    [Dialogue("describe the image.", "a red car to the left of a cat")],
    [Dialogue("what?", "no"), Dialogue("where is the cat?", "left"), Dialogue("how?", "a car")],
]


@pytest.fixture
def groups(victim):
    return [[tokenise(victim.processor, d) for d in group] for group in DIALOGUES]


def test_packed_logits_equal_unpacked(victim, photos, groups):
    packed, right = PackedAnswers(victim, groups)(photos)
    unpacked, same = UnpackedAnswers(victim, groups)(photos)
    assert packed.std() > 0.1
    torch.testing.assert_close(packed, unpacked, atol=1e-4, rtol=1e-4)
    assert torch.equal(right, same)


def test_packed_gradients_equal_unpacked(victim, photos, groups):
    gradients = []
    for answers in (PackedAnswers(victim, groups), UnpackedAnswers(victim, groups)):
        images = photos.clone().requires_grad_(True)
        logits, right = answers(images)
        loss = torch.nn.functional.cross_entropy(logits, right, reduction="sum")
        gradients.append(torch.autograd.grad(loss, images)[0])
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_loss_equals_the_stock_models_own(victim, photos):
    """One dialogue alone: the loss that the model computes from labels."""
    dialogue = DIALOGUES[1][0]
    processor = victim.processor
    text = chat_prompt(processor, dialogue.prompt, dialogue.answer)
    image = (photos[0] * 255).to(torch.uint8)
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    prompt = processor(
        text=[chat_prompt(processor, dialogue.prompt)], images=[image], return_tensors="pt"
    )
    labels = inputs["input_ids"].clone()
    labels[:, : prompt["input_ids"].shape[1]] = -100
    stock = victim.model(**inputs, labels=labels).loss
    ours = DialogueLoss(victim, [[dialogue]])(photos[:1])
    torch.testing.assert_close(ours, stock[None], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("score", [mean_cross_entropy, capped_margin])
def test_each_dialogue_weighs_the_same(victim, photos, score):
    together = DialogueLoss(victim, [DIALOGUES[0]], score)(photos[:1])
    apart = [DialogueLoss(victim, [[dialogue]], score)(photos[:1]) for dialogue in DIALOGUES[0]]
    torch.testing.assert_close(together, torch.stack(apart).mean(dim=0), atol=1e-4, rtol=1e-4)


def test_margin_is_below_zero_where_greedy_decoding_gives_the_answer(victim, photos):
    """What the victim says greedily has a negative margin; the same with another last word, not."""
    asked = "what is at the top left?"
    pixels = [(photo.permute(1, 2, 0) * 255).byte().numpy() for photo in photos[:1]]
    ((said,),) = generate(victim, pixels, [[asked]], max_new_tokens=4)
    image = torch.from_numpy(pixels[0]).permute(2, 0, 1)[None] / 255
    logits, _ = PackedAnswers(victim, [[tokenise(victim.processor, Dialogue(asked, said))]])(image)
    own = logits.argmax(dim=1)
    answer = torch.zeros(len(own), dtype=torch.long)
    assert capped_margin(logits, own, answer) < 0
    wrong = own.clone()
    wrong[-1] = (wrong[-1] + 1) % logits.shape[1]
    assert capped_margin(logits, wrong, answer) > 0


def test_margin_counts_the_worst_token_of_each_answer_and_is_capped():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [9.0, 0.0, 0.0]])
    scores = capped_margin(logits, torch.tensor([0, 2, 1]), torch.tensor([0, 0, 1]))
    torch.testing.assert_close(scores, torch.tensor([1.0, 5.0]))


def test_llava_is_packed_and_flash_attention_is_not(victim, monkeypatch):
    assert isinstance(DialogueLoss(victim, DIALOGUES).answer_logits, PackedAnswers)
    config = victim.model.model.language_model.config
    monkeypatch.setattr(config, "_attn_implementation_internal", "flash_attention_2")
    assert isinstance(DialogueLoss(victim, DIALOGUES).answer_logits, UnpackedAnswers)


def test_blocks_see_the_image_and_themselves_only(groups):
    packed = pack(groups, num_image_tokens=5)
    num_shared = len(groups[0][0].before) + 5
    first = len(groups[0][0].after) - 1
    second = num_shared + first
    assert packed.mask[0, 0, second, :num_shared].all()
    assert not packed.mask[0, 0, second, num_shared:second].any()
    assert packed.positions[0, second] == num_shared
    assert len(packed.targets) == len(packed.rows) == len(packed.sources)


def test_refuses_images_without_dialogue(victim):
    with pytest.raises(ValueError, match="at least one"):
        DialogueLoss(victim, [DIALOGUES[0], []])
