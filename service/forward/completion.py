"""An OpenAI-style chat completion: the requests the service sends, and the answers it reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from codefend.service.forward.failures import Reason, UpstreamFailure

__all__ = ["Answer", "ChatBody", "Completion", "read_answer", "read_choices", "read_chunk"]

# JSON costs by its values, not by its bytes: a chunk of 4 MiB may hold a picture, or a million
# lists that take the event loop for most of a second. So many are read in some 30 ms.
MAX_CHUNK_VALUES = 1 << 17
_CHUNK_FIELDS = frozenset({"choices", "usage"})


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
    image_url: str
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not self.image_url.startswith("data:"):
            msg = "only data: URLs are forwarded"
            raise ValueError(msg)

    def body(self, model: str, *, stream: bool) -> dict[str, Any]:
        """The request body."""
        content = [
            {"type": "image_url", "image_url": {"url": self.image_url}},
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
        return body


@dataclass(frozen=True, slots=True)
class ChatBody:
    """A client's chat with purified images in its gaps. What the client wrote is copied, not read.

    Attributes:
        fragments: A JSON object with a gap, inside quotes, after each fragment but the last.
        urls: `data:` URLs, one for each gap.
        has_model: Whether the client names a model.
    """

    fragments: Sequence[bytes]
    urls: Sequence[str]
    has_model: bool

    def body(self, model: str | None) -> bytes:
        """The request body.

        Args:
            model: Named in the body where the client names none.

        Raises:
            ValueError: A URL is something else, or there are not as many as gaps.
        """
        if not all(url.startswith("data:image/") for url in self.urls):
            msg = "only data: URLs are forwarded"
            raise ValueError(msg)
        pieces = [self.fragments[0]]
        for url, fragment in zip(self.urls, self.fragments[1:], strict=True):
            pieces += (url.encode("ascii"), fragment)
        if not self.has_model:
            # A chat holds messages, and so there is something after the brace.
            pieces[0] = b'{"model":' + json.dumps(model).encode() + b"," + pieces[0][1:]
        return b"".join(pieces)


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


def read_choices(content: bytes) -> dict[str, Any]:
    """Reads a JSON object with choices, each an object, and at least one.

    Raises:
        ValueError: It is not one; or TypeError, RecursionError.
    """
    document = _read_object(content)
    choices = document.get("choices")
    if not (isinstance(choices, list) and choices and all(isinstance(c, dict) for c in choices)):
        msg = "no choices"
        raise ValueError(msg)
    return document


def read_chunk(payload: bytes) -> dict[str, Any]:
    """Reads one event of a stream.

    Raises:
        UpstreamFailure: It is an error; what the upstream says in it is not passed on.
        ValueError: It is no chunk; or RecursionError.
    """
    if sum(map(payload.count, (b",", b"[", b"{"))) > MAX_CHUNK_VALUES:
        msg = "a chunk with too many values"
        raise ValueError(msg)
    chunk = _read_object(payload)
    if chunk.get("error"):
        raise UpstreamFailure(Reason.ERROR_EVENT)
    choices = chunk.get("choices") or []
    if not (chunk.keys() & _CHUNK_FIELDS and isinstance(choices, list)):
        msg = "no chunk"
        raise ValueError(msg)
    if not all(isinstance(choice, dict) for choice in choices):
        msg = "no choices"
        raise ValueError(msg)
    return chunk


def _read_object(content: bytes) -> dict[str, Any]:
    # Decoded here, because json would also take UTF-16, into which nothing could be spliced.
    document = json.loads(content.decode(), parse_constant=_refuse_constant)
    if not isinstance(document, dict):
        msg = "no object"
        raise TypeError(msg)
    return document


def _refuse_constant(_: str) -> NoReturn:
    msg = "NaN and Infinity are no JSON"
    raise ValueError(msg)


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
