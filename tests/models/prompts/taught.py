"""A tiny generator that was taught one prefix."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from codefend.models.prompts.generator import PrefixGenerator
from tests.language_models import language_model

__all__ = ["QUESTIONS", "WORDS", "teach"]

WORDS = "Be sure."
QUESTIONS = ["what is it?", "", "where is the dog, and why?", "describe the image."]
_STEPS = 200


def teach(folder):
    """Writes a base and an adapter that always says `WORDS`; their directories."""
    base = language_model(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    tuned.base_model.model.get_input_embeddings().weight.requires_grad_(False)
    generator = PrefixGenerator(tuned, tokenizer, name="taught", version="3", max_new_tokens=12)
    answer = tokenizer(WORDS + tokenizer.eos_token, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(_STEPS):
        asked = generator.encode(QUESTIONS)
        ids = torch.cat([asked["input_ids"], answer.expand(len(QUESTIONS), -1)], dim=1)
        mask = torch.cat(
            [asked["attention_mask"], torch.ones_like(answer).expand(len(QUESTIONS), -1)], dim=1
        )
        # As `generate` counts: padding has no place of its own.
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        outputs = tuned(input_ids=ids, attention_mask=mask, position_ids=positions)
        logits = outputs.logits[:, -answer.shape[1] - 1 : -1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), answer.repeat(len(QUESTIONS), 1).flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    generator.save(folder / "adapter")
    return base, folder / "adapter"
