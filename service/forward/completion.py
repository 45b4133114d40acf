"""An OpenAI-style chat completion: the requests the service sends, and the answers it reads."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codefend.models.prompts.templates import Template
from codefend.service.protocols.base import Protocol
from codefend.service.protocols.chat import read_choices
from codefend.service.protocols.prompting import GapKind

__all__ = ["Answer", "ChatBody", "Completion", "read_answer"]


@dataclass(frozen=True, slots=True)
class Completion:
    """One question about one image.

    Attributes:
        prompt: The rendered template.
        image_url: A `data:` URL; never anything else.
        model: Model name, None for the upstream's default.
        max_tokens: Longest answer.
        temperature: None for the upstream's default.
    """

    prompt: str
    image_url: bytes
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not self.image_url.startswith(b"data:"):
            msg = "only data: URLs are forwarded"
            raise ValueError(msg)

    def body(self, model: str, *, stream: bool) -> bytes:
        """The request body, in JSON."""
        content = [
            {"type": "image_url", "image_url": {"url": ""}},
            {"type": "text", "text": self.prompt},
        ]
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.temperature is not None:
            body["temperature"] = self.temperature
        # Megabytes of base64 need no escaping; what a prompt says of quotes has some.
        head, gap, tail = json.dumps(body).encode().partition(b'"url": ""')
        return b"".join((head, gap[:-1], self.image_url, gap[-1:], tail))


@dataclass(frozen=True, slots=True)
class ChatBody:
    """A client's chat with purified images in its gaps. What the client wrote is copied, not read.

    Attributes:
        protocol: Whose request it is.
        fragments: A JSON object with a gap, inside quotes, after each fragment but the last.
        gaps: What comes into each, as `Chat` has it; nothing where all are for images.
        prompts: For each question that is asked of an image, what goes beside it.
        images: For each image its `data:` URL, and whether it stands in a source of Anthropic's:
            then it has two gaps, for its media type and for its base64.
        has_model: Whether the client names a model.
        headers: Of the client, to be sent with it.
    """

    protocol: Protocol
    fragments: Sequence[bytes]
    images: Sequence[tuple[bytes, bool]]
    has_model: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    gaps: Sequence[str] = ()
    prompts: Sequence[Template] = ()

    def body(self, model: str | None) -> bytes:
        """The request body.

        Args:
            model: Named in the body where the client names none.

        Raises:
            ValueError: A URL is something else, or there are not as many as gaps.
        """
        if not all(url.startswith(b"data:image/") for url, _ in self.images):
            msg = "only data: URLs are forwarded"
            raise ValueError(msg)
        pieces: list[bytes | memoryview] = [self.fragments[0]]
        for filling, fragment in zip(self._fillings(), self.fragments[1:], strict=True):
            pieces += (filling, fragment)
        if not self.has_model:
            # A chat holds messages, and so there is something after the brace.
            pieces[0] = b'{"model":' + json.dumps(model).encode() + b"," + self.fragments[0][1:]
        return b"".join(pieces)

    def _fillings(self) -> Iterator[bytes | memoryview]:
        images = self._images()
        for gap in self.gaps:
            kind, number = GapKind(gap[0]), int(gap[1:])
            yield next(images) if kind is GapKind.IMAGE else self._words(kind, number)
        yield from images

    def _words(self, kind: GapKind, number: int) -> bytes:
        """What a prompt says there, as it stands within quotes of JSON."""
        prompt = self.prompts[number]
        before, behind = prompt.around
        words = {GapKind.BEFORE: before, GapKind.BEHIND: behind}
        return json.dumps(words.get(kind, prompt.instructions))[1:-1].encode()

    def _images(self) -> Iterator[bytes | memoryview]:
        for url, is_source in self.images:
            if is_source:
                comma = url.index(b",")
                yield url[:comma].removeprefix(b"data:").removesuffix(b";base64")
                yield memoryview(url)[comma + 1 :]
            else:
                yield url


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and the tokens it took, where it tells."""

    text: str
    usage: dict[str, Any] | None


def read_answer(content: bytes) -> Answer:
    """Reads a chat completion.

    Raises:
        ValueError: It is not one; or LookupError, TypeError, RecursionError.
    """
    document = read_choices(content)
    text = document["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        msg = "the content of an answer is text"
        raise TypeError(msg)
    # JSON can write half of a surrogate pair, which no answer of ours could be written with.
    text.encode()
    return Answer(text, _read_usage(document.get("usage")))


def _read_usage(usage: Any) -> dict[str, Any] | None:
    """Numbers, and objects of numbers, as OpenAI counts; whatever else stands there is left out."""
    if not isinstance(usage, dict):
        return None
    counts = {name: value for name, value in usage.items() if name.isascii()}
    return {
        name: _numbers_of(value) if isinstance(value, dict) else value
        for name, value in counts.items()
        if value is None or isinstance(value, int | float | dict)
    }


def _numbers_of(details: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in details.items()
        if name.isascii() and (value is None or isinstance(value, int | float))
    }
