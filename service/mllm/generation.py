"""Runs the embedded model: one conversation at a time, its answer token by token.

A conversation, in whatever dialect it came, is read into what the model's processor takes.
"""

import binascii
import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pybase64
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)
from transformers.utils.logging import disable_progress_bar

from codefend.models.mllm.stills import load_processor
from codefend.models.packed import unpacked
from codefend.service.errors import InvalidField

__all__ = [
    "Conversation",
    "Generation",
    "Generator",
    "ImageUrl",
    "Turn",
    "load_generator",
    "read_conversation",
]

STREAM_TIMEOUT_S = 120.0
WARM_UP_SIDE_PX = 128
# The model was taught three roles; what it was not taught is told to it as one of them.
_ROLES = {"developer": "system", "tool": "user"}


class ImageUrl(str):
    """Where an image is: a `data:` URL, and so in the URL itself."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """What somebody said in a conversation: texts and images, in their order."""

    role: str
    parts: Sequence[str | ImageUrl]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in the form of a chat template, and the images they refer to, in order."""

    messages: list[dict[str, Any]]
    images: list[Image.Image]


def read_conversation(turns: Sequence[Turn], special_tokens: list[str]) -> Conversation:
    """Reads the images of a conversation.

    Args:
        turns: The conversation.
        special_tokens: Taken out of every text: only the template may write them.

    Raises:
        InvalidField: An image is not a readable data: URL.
    """
    images: list[Image.Image] = []
    messages = []
    for turn in turns:
        content = [_template_part(part, images, special_tokens) for part in turn.parts]
        messages.append({"role": _ROLES.get(turn.role, turn.role), "content": content})
    return Conversation(messages, images)


def _template_part(
    part: str | ImageUrl, images: list[Image.Image], special_tokens: list[str]
) -> dict[str, Any]:
    if isinstance(part, ImageUrl):
        images.append(_read_image(part))
        return {"type": "image"}
    for token in special_tokens:
        part = part.replace(token, " ")
    return {"type": "text", "text": part}


def _read_image(url: ImageUrl) -> Image.Image:
    header, _, payload = url.partition(",")
    if not header.startswith("data:image/"):
        msg = "An image must be a data: URL."
        raise InvalidField(msg)
    try:
        return Image.open(io.BytesIO(pybase64.b64decode(payload, validate=True))).convert("RGB")
    except (OSError, ValueError, binascii.Error) as error:
        msg = "An image is not readable."
        raise InvalidField(msg) from error


@dataclass(slots=True)
class Generation:
    """An answer in the making.

    Attributes:
        prompt_tokens: Length of the prompt.
        max_tokens: Longest answer.
        completion_tokens: Length of the answer so far.
        is_cancelled: Set from outside: nobody wants the rest.
        failure: What ended the generation, if anything did.
    """

    prompt_tokens: int
    max_tokens: int
    completion_tokens: int = 0
    is_cancelled: bool = False
    failure: BaseException | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the answer ended because it may be no longer."""
        return self.completion_tokens >= self.max_tokens


class _Watch(StoppingCriteria):  # type: ignore[misc]
    """Counts tokens, and stops a generation that was cancelled."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Says, for each row of (B, T) `input_ids`, whether to stop."""
        generation = self._generation
        generation.completion_tokens = input_ids.shape[1] - generation.prompt_tokens
        return torch.full((input_ids.shape[0],), generation.is_cancelled, device=input_ids.device)


class Generator:
    """A model and its processor; the caller sees to it that only one answer is made at a time."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self._model = model
        self._processor = processor
        self.name = name

    @property
    def special_tokens(self) -> list[str]:
        """Texts that only the chat template may write."""
        return [str(token) for token in self._processor.tokenizer.added_tokens_encoder]

    def begin(
        self, conversation: Conversation, max_tokens: int, temperature: float
    ) -> tuple[Generation, Iterator[str]]:
        """Prepares an answer.

        Args:
            conversation: What was asked.
            max_tokens: Longest answer.
            temperature: 0 takes the likeliest token each time.

        Returns:
            The answer's counters, and its text, piece by piece, once iterated.

        Raises:
            InvalidField: The model cannot take such a conversation.
        """
        inputs = self._encode(conversation)
        generation = Generation(inputs["input_ids"].shape[1], max_tokens)
        return generation, self._pieces(generation, inputs, temperature)

    def warm_up(self) -> None:
        """Makes one short answer, so that the first caller does not pay for what happens once."""
        question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
        grey = Image.new("RGB", (WARM_UP_SIDE_PX, WARM_UP_SIDE_PX), "grey")
        _, pieces = self.begin(Conversation([question], [grey]), max_tokens=2, temperature=0.0)
        list(pieces)

    def _encode(self, conversation: Conversation) -> Any:
        prompt = self._processor.apply_chat_template(
            conversation.messages, add_generation_prompt=True, tokenize=False
        )
        try:
            inputs = self._processor(
                images=conversation.images or None, text=prompt, return_tensors="pt"
            )
        except ValueError as error:
            msg = "The model cannot take this conversation: it may have too many images."
            raise InvalidField(msg) from error
        longest = self._processor.tokenizer.model_max_length
        if inputs["input_ids"].shape[1] > longest:
            msg = f"The conversation is over {longest} tokens long."
            raise InvalidField(msg)
        return inputs.to(self._model.device)

    def _pieces(self, generation: Generation, inputs: Any, temperature: float) -> Iterator[str]:
        streamer = TextIteratorStreamer(
            self._processor.tokenizer,
            skip_prompt=True,
            skip_special_tokens=True,
            timeout=STREAM_TIMEOUT_S,
        )
        arguments = (generation, inputs, temperature, streamer)
        thread = threading.Thread(target=self._generate, args=arguments)
        thread.start()
        try:
            yield from _without_margins(streamer)
        finally:
            generation.is_cancelled = True
            thread.join()
        if generation.failure is not None:
            raise generation.failure

    @torch.inference_mode()
    def _generate(
        self, generation: Generation, inputs: Any, temperature: float, streamer: Any
    ) -> None:
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {}
        try:
            self._model.generate(
                **inputs,
                max_new_tokens=generation.max_tokens,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([_Watch(generation)]),
                **({"do_sample": False} | sampling),
            )
        except Exception as error:  # a thread's boundary: the reader raises it
            generation.failure = error
            streamer.end()


def _without_margins(pieces: Iterable[str]) -> Iterator[str]:
    """A text in pieces without the white space at its beginning and its end."""
    held, has_begun = "", False
    for piece in pieces:
        text = held + piece if has_begun else (held + piece).lstrip()
        kept = text.rstrip()
        held = text[len(kept) :]
        if kept:
            has_begun = True
            yield kept


def load_generator(
    model: str, device: str | None = None, *, num_threads: int | None = None
) -> Generator:
    """Loads any image-text-to-text model and its processor.

    Args:
        model: Directory or hub id; safetensors only.
        device: Where it runs; None for the first GPU, or else the CPU.
        num_threads: On a CPU; None for all cores.

    Raises:
        OSError: There is no such model.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    # A server has no terminal: a progress bar would only litter the log.
    disable_progress_bar()
    place = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if place.startswith("cuda") else torch.float32
    loaded = AutoModelForImageTextToText.from_pretrained(
        unpacked(model), dtype=dtype, use_safetensors=True
    )
    processor = load_processor(model, loaded.config.model_type)
    return Generator(loaded.to(place).eval(), processor, Path(model).name)
