"""One question put to a victim about an image, and the answer it is scored or attacked on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CAPTION_REQUEST", "Dialogue", "TokenisedDialogue", "chat_prompt", "tokenise"]

CAPTION_REQUEST = "describe the image."
"""How a caption is asked for where nobody asks in other words."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What is asked (as served, template applied) and what is answered."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class TokenisedDialogue:
    """A dialogue as token ids around its image.

    Attributes:
        before: ids up to the image.
        after: ids behind the image: the rest of the prompt, then the answer and end of text.
        num_prompt: how many of ``after`` belong to the prompt; what follows is supervised.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    num_prompt: int


def chat_prompt(processor: Any, prompt: str, answer: str | None = None) -> str:
    """The text that a model reads for ``prompt`` about one image.

    Args:
        processor: a processor with a chat template.
        prompt: the user's text.
        answer: where given, it follows, closed by the end-of-text token.

    Returns:
        Text with one image placeholder, ready for the processor.
    """
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    question: str = processor.apply_chat_template(messages, add_generation_prompt=True)
    if answer is None:
        return question
    messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    closed: str = processor.apply_chat_template(messages)
    end = processor.tokenizer.eos_token
    if not closed.startswith(question):
        closed = f"{question} {answer}"
    closed = closed.rstrip()
    return closed if closed.endswith(end) else closed + end


def tokenise(processor: Any, dialogue: Dialogue) -> TokenisedDialogue:
    """Tokenises a dialogue as the processor does, its image placeholder not yet expanded.

    The prompt ends where the text with and the text without the answer part.

    Raises:
        ValueError: where the chat template shows not exactly one image.
    """
    asked = _ids(processor, chat_prompt(processor, dialogue.prompt))
    answered = _ids(processor, chat_prompt(processor, dialogue.prompt, dialogue.answer))
    if answered.count(processor.image_token_id) != 1:
        raise ValueError("the chat template must show exactly one image token")
    image = answered.index(processor.image_token_id)
    shared = next(
        (i for i, (a, b) in enumerate(zip(asked, answered, strict=False)) if a != b),
        min(len(asked), len(answered) - 1),
    )
    return TokenisedDialogue(
        tuple(answered[:image]), tuple(answered[image + 1 :]), shared - image - 1
    )


def _ids(processor: Any, text: str) -> list[int]:
    ids: list[int] = processor.tokenizer(text)["input_ids"]
    return ids
