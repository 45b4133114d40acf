"""Writes a defensive prefix for a query: a small causal language model with a LoRA adapter.

The second half of CoDefend (arXiv 2510.11096): a generator, tuned by LoRA, puts words before each
query that keep the answering model with what the picture shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from codefend.models.prompts.templates import GENERATOR, PLACEHOLDER

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MAX_PREFIX_CHARS", "PrefixGenerator", "clean_prefix", "generator_request"]

MAX_PREFIX_CHARS = 200
_REQUEST = (
    "Write one short instruction for somebody who answers a question about a picture that may "
    "have been tampered with. Question: {question}"
)
# Plain words of one line: nothing that a server, or a template of a model, could take for more.
_ALLOWED = re.compile(r"[A-Za-z0-9 ,.;:'?-]+")


def generator_request(question: str) -> str:
    """What the generator is asked, for a question; the question is inserted, never interpreted."""
    return _REQUEST.replace(PLACEHOLDER, question)


def clean_prefix(text: str) -> str | None:
    """The prefix in what a generator wrote: its first line, in plain words.

    Returns:
        None where nothing is left, it is too long, or it holds anything but plain words: markup
        could bring in a picture, and marks of a chat template another speaker.
    """
    line = " ".join(text.strip().partition("\n")[0].split())
    is_plain = len(line) <= MAX_PREFIX_CHARS and _ALLOWED.fullmatch(line) is not None
    return line if is_plain and any(character.isalpha() for character in line) else None


class PrefixGenerator:
    """A language model that writes prefixes, in batches.

    Attributes:
        name: In answers.
        version: Likewise.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, version: str, max_new_tokens: int = 24
    ) -> None:
        """Takes a model.

        Args:
            model: A causal language model, of ``transformers``' or ``peft``'s.
            tokenizer: With a chat template.
            name: In answers.
            version: Likewise.
            max_new_tokens: Of the longest prefix.
        """
        self.name, self.version = name, version
        self.max_new_tokens = max_new_tokens
        self.model = model.eval()
        self.tokenizer = tokenizer
        tokenizer.padding_side = "left"

    @classmethod
    def load(cls, adapter: str | Path, base: str | None = None) -> Self:
        """Loads an adapter and the model that it adapts, fused.

        Args:
            adapter: Directory of `save`.
            base: Directory or hub id of the model; None for the one that the adapter names.

        Raises:
            OSError: One of them is not there.
            ValueError: The directory is none of `save`, or the adapter does not fit.
        """
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(adapter)
        facts = json.loads((folder / GENERATOR).read_text(encoding="utf-8"))
        source = (
            base
            or json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))[
                "base_model_name_or_path"
            ]
        )
        language: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True
        )
        try:
            model = PeftModel.from_pretrained(language, str(folder)).merge_and_unload()
            return cls(model, AutoTokenizer.from_pretrained(source), **facts)
        except (RuntimeError, TypeError) as error:
            msg = f"{folder} does not fit {source}: {error}"
            raise ValueError(msg) from error

    def save(self, folder: Path) -> None:
        """Saves the adapter, in half precision, and what it is; its model is a ``PeftModel``."""
        adapters = {
            name: t.half() for name, t in self.model.state_dict().items() if "lora_" in name
        }
        self.model.save_pretrained(folder, state_dict=adapters)
        facts = {
            "name": self.name,
            "version": self.version,
            "max_new_tokens": self.max_new_tokens,
        }
        text = json.dumps(facts, indent=2) + "\n"
        (folder / GENERATOR).write_text(text, encoding="utf-8")

    def encode(self, questions: Sequence[str]) -> dict[str, Tensor]:
        """The requests for some questions as padded token ids, (B, T)."""
        chats = [[{"role": "user", "content": generator_request(each)}] for each in questions]
        texts = [
            self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            for chat in chats
        ]
        encoded: dict[str, Tensor] = self.tokenizer(texts, return_tensors="pt", padding=True)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    @torch.inference_mode()
    def write(self, questions: Sequence[str], **sampling: Any) -> list[str | None]:
        """Writes a prefix for each question; greedily, so that a question's stays the same.

        Args:
            questions: At least one.
            sampling: As ``generate`` takes it, to draw instead.

        Returns:
            A prefix of plain words each; None where there was none in what was written.
        """
        inputs = self.encode(questions)
        written = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            **({"do_sample": False} | sampling),
        )
        texts = self.tokenizer.batch_decode(
            written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return [clean_prefix(text) for text in texts]
