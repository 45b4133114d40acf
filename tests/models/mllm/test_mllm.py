from pathlib import Path
from typing import Literal

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from codefend.models.mllm.architecture import ARCHITECTURES, llava_config
from codefend.models.mllm.tiny import tiny_mllm


@pytest.mark.parametrize("tower", ["vit", "levit"])
def test_saved_and_loaded_by_the_stock_classes_it_answers_alike(
    tmp_path: Path, tower: Literal["vit", "levit"]
) -> None:
    model, processor = tiny_mllm(tower=tower)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    stock = AutoProcessor.from_pretrained(tmp_path)
    message = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "WHAT is at the top left?"}],
        }
    ]
    text = stock.apply_chat_template(message, add_generation_prompt=True)
    inputs = stock(text=[text], images=[Image.new("RGB", (300, 200))], return_tensors="pt")
    answers = [m.generate(**inputs, max_new_tokens=5, do_sample=False) for m in (model, loaded)]
    assert torch.equal(*answers)


def test_any_text_survives_the_tokenizer() -> None:
    _, processor = tiny_mllm()
    text = " ünïcode, 漢字 and <tags>!"
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_shipped_size_stays_under_12_million_parameters(name: str) -> None:
    _, processor = tiny_mllm()
    config = llava_config(processor, ARCHITECTURES[name])
    config.text_config.vocab_size = 900
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 12_000_000
