"""Other families end to end: stock losses, gradients to the pixels, attacks, stock answers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from codefend.lab.attacks.gradient import PGD
from codefend.lab.attacks.objectives import answer_margin, encoder_distance, untargeted_loss
from codefend.lab.victims.dialogue import Dialogue, chat_prompt
from codefend.lab.victims.generate import generate
from codefend.lab.victims.likelihood import DialogueLoss, UnpackedAnswers
from codefend.lab.victims.victim import load_victim

ASKED = "what is at the top left?"
DIALOGUES = [Dialogue(ASKED, "a red car"), Dialogue("describe the image.", "a cat to the left")]


def smooth(height, width, count=1):
    """Smooth random images (count, 3, height, width) on the 256 levels."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    resized = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return (resized.clamp(0, 1) * 255).round() / 255


def as_pixels(images):
    return [(i * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for i in images]


def stock_inputs(victim, text, pixels):
    return victim.processor(text=[text], images=[Image.fromarray(pixels)], return_tensors="pt")


@pytest.mark.parametrize("size", [(64, 80), (90, 41), (32, 32)])
def test_inputs_equal_the_stock_processors(family_victim, size):
    images = smooth(*size)
    stock = family_victim.processor.image_processor(
        images=[Image.fromarray(as_pixels(images)[0])], return_tensors="pt"
    )
    ours = family_victim.image_inputs(images)
    assert set(ours) == set(stock)
    for name, value in stock.items():
        torch.testing.assert_close(ours[name], value, atol=1e-3, rtol=0, check_dtype=False)


@pytest.mark.parametrize("size", [(64, 80), (90, 41)])
def test_loss_equals_the_stock_models_own(family_victim, size):
    images = smooth(*size)
    for dialogue in DIALOGUES:
        processor, pixels = family_victim.processor, as_pixels(images)[0]
        whole = chat_prompt(processor, dialogue.prompt, dialogue.answer)
        inputs = stock_inputs(family_victim, whole, pixels)
        asked = stock_inputs(family_victim, chat_prompt(processor, dialogue.prompt), pixels)
        labels = inputs["input_ids"].clone()
        labels[:, : asked["input_ids"].shape[1]] = -100
        with torch.no_grad():
            stock = family_victim.model(**inputs, labels=labels).loss
            ours = DialogueLoss(family_victim, [[dialogue]])(images)
        torch.testing.assert_close(ours, stock[None], atol=1e-4, rtol=1e-4)


def test_dialogues_of_several_images_do_not_mix(family_victim):
    """Padding, shared features and several images change no loss."""
    images = smooth(48, 64, count=2)
    groups = [DIALOGUES, DIALOGUES[::-1][:1]]
    together = DialogueLoss(family_victim, groups)
    assert isinstance(together.answer_logits, UnpackedAnswers)
    apart = [
        torch.stack([DialogueLoss(family_victim, [[d]])(image[None]) for d in group]).mean()
        for image, group in zip(images, groups, strict=True)
    ]
    torch.testing.assert_close(together(images), torch.stack(apart), atol=1e-4, rtol=1e-4)


def test_a_model_that_takes_no_features_gives_the_same_loss(family_victim, monkeypatch):
    images = smooth(48, 64, count=2)
    loss = DialogueLoss(family_victim, [DIALOGUES, DIALOGUES])
    expected = loss(images)
    monkeypatch.setattr("codefend.lab.victims.victim.accepts", lambda *_: False)
    torch.testing.assert_close(loss(images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("objective", [untargeted_loss, answer_margin])
def test_attack_raises_the_loss(family_victim, objective):
    images = smooth(48, 64, count=2)
    loss = objective(family_victim, [DIALOGUES] * 2)
    attack = PGD(epsilon=16 / 255, steps=4)
    adversarial = attack(images, loss, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (loss(adversarial) > loss(images)).all()


def test_attack_moves_the_encoder(family_victim):
    images = smooth(48, 64, count=2)
    distance = encoder_distance(family_victim, images)
    attack = PGD(epsilon=16 / 255, steps=3)
    adversarial = attack(images, distance, generator=torch.Generator().manual_seed(0))
    assert distance(images).abs().max() < 1e-5
    assert (distance(adversarial) > 1e-4).all()


def test_gradient_is_the_losss_slope(family_victim):
    """Along the gradient's signs the loss rises as the gradient says: nothing is cut off."""
    step = 1 / 255
    images = smooth(96, 88).clamp(step, 1 - step).requires_grad_(True)
    loss = DialogueLoss(family_victim, [DIALOGUES])
    (gradient,) = torch.autograd.grad(loss(images).sum(), images)
    assert (gradient != 0).float().mean() > 0.9
    with torch.no_grad():
        up, down = loss(images + step * gradient.sign()), loss(images - step * gradient.sign())
    predicted = 2 * step * gradient.abs().sum()
    assert float((up - down) / predicted) == pytest.approx(1.0, abs=0.15)


def test_answers_equal_one_prompt_at_a_time(family_victim):
    """Images of different sizes in one batch, two questions about one of them."""
    pixels = [as_pixels(smooth(48, 64))[0], as_pixels(smooth(80, 40))[0]]
    prompts = [[ASKED, "why?"], ["describe the image."]]
    together = generate(family_victim, pixels, prompts, max_new_tokens=4)
    assert together == [
        [stock_answer(family_victim, image, prompt) for prompt in asked]
        for image, asked in zip(pixels, prompts, strict=True)
    ]


def stock_answer(victim, image, prompt):
    inputs = stock_inputs(victim, chat_prompt(victim.processor, prompt), image)
    ids = victim.model.generate(
        **inputs,
        max_new_tokens=4,
        do_sample=False,
        pad_token_id=victim.processor.tokenizer.pad_token_id,
    )
    new = ids[:, inputs["input_ids"].shape[1] :]
    return victim.processor.batch_decode(new, skip_special_tokens=True)[0].strip()


def test_answers_depend_on_the_image(family_victim):
    dark, light = np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 255, np.uint8)
    said = generate(family_victim, [dark, light], [[ASKED]] * 2, max_new_tokens=6)
    assert said[0] != said[1]


def test_saved_victim_loads_without_torchvision(family_victim, tmp_path):
    family_victim.model.save_pretrained(tmp_path)
    family_victim.processor.save_pretrained(tmp_path)
    loaded = load_victim(tmp_path)
    images = smooth(48, 64)
    assert type(loaded.processor) is type(family_victim.processor)
    torch.testing.assert_close(loaded.image_tokens(images), family_victim.image_tokens(images))


def as_published(folder, family):
    """Turns a saved victim into the layout of hub repositories: older files, and a video half."""
    saved = json.loads((folder / "processor_config.json").read_text())
    image_processor = saved.pop("image_processor")
    image_processor["processor_class"] = saved["processor_class"] = {
        "idefics3": "Idefics3Processor",
        "smolvlm": "SmolVLMProcessor",
        "qwen2_vl": "Qwen2VLProcessor",
        "qwen2_5_vl": "Qwen2_5_VLProcessor",
    }[family]
    if family.startswith("qwen"):
        size = image_processor.pop("size")
        image_processor["min_pixels"] = size["shortest_edge"]
        image_processor["max_pixels"] = size["longest_edge"]
        video = {"video_processor_type": "Qwen2VLVideoProcessor"}
    else:
        video = {"video_processor_type": "SmolVLMVideoProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor))
    (folder / "processor_config.json").write_text(json.dumps(saved))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))


def test_a_victim_as_hubs_publish_it_loads(family_victim, tmp_path):
    family_victim.model.save_pretrained(tmp_path)
    family_victim.processor.save_pretrained(tmp_path)
    as_published(tmp_path, family_victim.name)
    loaded = load_victim(tmp_path)
    assert loaded.preprocess == family_victim.preprocess
    dialogues = [DIALOGUES]
    images = smooth(48, 64)
    torch.testing.assert_close(
        DialogueLoss(loaded, dialogues)(images), DialogueLoss(family_victim, dialogues)(images)
    )


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (2, 3)])
def test_smolvlms_own_processor_writes_the_same_text(smolvlm_processor, rows, columns):
    """SmolVLM is loaded with Idefics3's processor: their expansions must be one."""
    ours = smolvlm_processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)
    assert ours == get_image_prompt_string(
        rows, columns, 4, "<fake_token_around_image>", "<image>", "<global-img>"
    )
