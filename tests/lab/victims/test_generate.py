"""Batched generation says what the stock path says one prompt at a time."""

import pytest
import torch

from codefend.lab.errors import LabError
from codefend.lab.victims.answers import is_match, normalise
from codefend.lab.victims.dialogue import chat_prompt
from codefend.lab.victims.generate import generate
from codefend.lab.victims.victim import Victim, load_victim

PROMPTS = [["what is at the top left?", "how many?"], ["describe the image."], ["a cat?", "why?"]]


@pytest.fixture
def pixels(photos):
    return [(photo * 255).to(torch.uint8).permute(1, 2, 0).numpy() for photo in photos]


def alone(victim, image, prompt):
    text = chat_prompt(victim.processor, prompt)
    inputs = victim.processor(text=[text], images=[image], return_tensors="pt")
    ids = victim.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    new = ids[:, inputs["input_ids"].shape[1] :]
    return victim.processor.batch_decode(new, skip_special_tokens=True)[0].strip()


@pytest.mark.parametrize("batch_size", [2, 256])
def test_equals_one_prompt_at_a_time(victim, pixels, batch_size):
    together = generate(victim, pixels, PROMPTS, max_new_tokens=5, batch_size=batch_size)
    apart = [
        [alone(victim, image, prompt) for prompt in prompts]
        for image, prompts in zip(pixels, PROMPTS, strict=True)
    ]
    assert together == apart
    assert len({text for texts in apart for text in texts}) > 1


def test_saved_victim_loads_alike(victim, photos, tmp_path):
    victim.model.save_pretrained(tmp_path / "small")
    victim.processor.save_pretrained(tmp_path / "small")
    loaded = load_victim(tmp_path / "small")
    assert loaded.name == "small"
    assert len(loaded.sha256) == 64
    assert loaded.model.model.language_model.config._attn_implementation == "eager"
    torch.testing.assert_close(loaded.image_tokens(photos), victim.image_tokens(photos))


def test_precision_is_a_copy(victim, photos):
    whole = victim.image_tokens(photos)
    half = victim.astype(torch.bfloat16)
    torch.testing.assert_close(half.image_tokens(photos).float(), whole, atol=0.1, rtol=0.1)
    assert half.dtype is torch.bfloat16
    assert victim.dtype is torch.float32
    assert victim.astype(torch.float32) is victim


def test_missing_victim_is_the_users_error(tmp_path):
    with pytest.raises(LabError, match="no model"):
        load_victim(tmp_path / "nothing")


def test_frozen(victim):
    assert isinstance(victim, Victim)
    assert not any(parameter.requires_grad for parameter in victim.model.parameters())


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("A cat.", "cat", True),
        ("the  Red car", "a red car", True),
        ("cats", "cat", False),
        ("", "no", False),
    ],
)
def test_matching(answer, truth, same):
    assert is_match(answer, truth) is same
    assert normalise(normalise(answer)) == normalise(answer)
