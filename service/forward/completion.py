"""An OpenAI-style chat completion: the request the service sends, and the answer it reads."""

from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Completion", "read_answer"]


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
class Answer:
    """What the model said, and the tokens it took, where it tells."""

    text: str
    usage: dict[str, Any] | None


def read_answer(document: Any) -> Answer:
    """Reads a chat completion.

    Raises:
        KeyError: It is not one.
        IndexError: It is not one.
        TypeError: It is not one.
    """
    text = document["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        msg = "the content of an answer is text"
        raise TypeError(msg)
    usage = document.get("usage")
    return Answer(text, usage if isinstance(usage, dict) else None)
