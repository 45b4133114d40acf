"""A language model of others behind our tower: what is trained, and what it is never told."""

from pathlib import Path

import numpy as np
import pytest
import torch

from codefend.lab.errors import LabError
from codefend.lab.train.connector import connect
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.mllm import OtherLanguage, SceneNumbers, train_mllm
from codefend.lab.victims.dialogue import Dialogue, chat_prompt, tokenise
from codefend.lab.victims.generate import generate
from codefend.lab.victims.victim import load_victim
from codefend.lab.world.compose import World
from codefend.lab.world.language import PREAMBLES, conversations, questions
from codefend.lab.world.layout import sample_layout
from codefend.models.mllm.tiny import tiny_mllm
from tests.language_models import SYSTEM, language_model

pytestmark = pytest.mark.slow

TINY = LoopSettings(num_steps=3, learning_rate=1e-2, warmup_steps=1, num_workers=0)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower")
    for part in tiny_mllm():
        part.save_pretrained(folder)
    return folder


def test_it_is_a_llava_that_chats_as_its_language_model_does(tower: Path, tmp_path: Path) -> None:
    model, processor = connect(tower, language_model(tmp_path))
    system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    asked = f"{system}<|im_start|>user\n<image>hi?<|im_end|>\n<|im_start|>assistant\n"
    assert chat_prompt(processor, "hi?") == asked
    assert chat_prompt(processor, "hi?", "yes") == f"{asked}yes<|im_end|>"
    read = tokenise(processor, Dialogue("hi?", "yes"))
    supervised = read.after[read.num_prompt :]
    assert processor.tokenizer.decode(supervised) == "yes<|im_end|>"
    assert model.get_input_embeddings().weight is model.lm_head.weight


def test_without_a_system_prompt_of_its_own_none_is_said(tower: Path, tmp_path: Path) -> None:
    _, processor = connect(tower, language_model(tmp_path, template=None))
    assert chat_prompt(processor, "hi?").startswith("<|im_start|>user\n<image>hi?")


def test_it_is_trained_beside_a_tower_that_stays_and_saved_as_a_stock_model(
    world: World, tower: Path, tmp_path: Path
) -> None:
    source = language_model(tmp_path / "language")
    before, _ = connect(tower, source)
    start = OtherLanguage(tower, source)
    model, processor = train_mllm(world, start, tmp_path, TINY, numbers=SceneNumbers(2))
    was, now = before.state_dict(), model.state_dict()
    assert was.keys() == now.keys()
    changed = {name for name in was if not torch.equal(was[name], now[name])}
    kept = [name for name in changed if "vision_tower" in name or "embed" in name or "norm" in name]
    assert not kept
    assert {name.split(".")[1] for name in changed} == {"language_model", "multi_modal_projector"}
    for part in (model, processor):
        part.save_pretrained(tmp_path / "out")
    victim = load_victim(tmp_path / "out")
    images = [np.zeros((128, 128, 3), np.uint8)]
    assert len(generate(victim, images, [["what is it?"]], max_new_tokens=2)[0]) == 1


@pytest.mark.parametrize(
    ("source", "says"), [("nowhere", "no language model in"), ("silent", "does not speak ChatML")]
)
def test_a_language_model_that_cannot_be_is_refused(
    tower: Path, tmp_path: Path, source: str, says: str
) -> None:
    language_model(tmp_path / "silent", marks=False, template=None)
    with pytest.raises(LabError, match=says):
        connect(tower, str(tmp_path / source))


def test_it_is_never_told_how_to_look() -> None:
    told = (*PREAMBLES, "ignore the sign.", "answer in a sentence.", "list the objects.")
    for seed in range(60):
        rng = np.random.default_rng(seed)
        layout = sample_layout(rng, "train", 3)
        asked = questions(layout, rng)
        for prompt, _ in conversations(layout, asked, rng, instructs=False):
            assert not any(words in prompt for words in told)
