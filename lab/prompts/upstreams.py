"""Who is asked during a search: local models in batches, or any OpenAI-style upstream over HTTP.

Every answer is written down as it comes, so that a search that was killed asks nothing twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field, PositiveInt, SecretStr

from codefend.lab.errors import LabError
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.experiments.store import digest_of
from codefend.lab.progress import progress
from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.generate import MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS, generate
from codefend.lab.victims.victim import Victim
from codefend.models.codec import ImageFormat, data_url, encode_image

__all__ = [
    "AnswerLog",
    "AskedModel",
    "HttpUpstream",
    "LocalUpstream",
    "Meter",
    "Request",
    "UpstreamSettings",
]

_CHAT = "/v1/chat/completions"
_PRICED = 1_000_000  # tokens


def _upstream_key() -> SecretStr:
    return SecretStr(os.environ.get("CODEFEND_LAB_UPSTREAM_KEY", ""))


class UpstreamSettings(RunSettings):
    """An OpenAI-style upstream to be asked instead of the local models."""

    url: str = ""
    """Its address, without /v1; local models are asked where empty."""
    model: str = ""
    """Name of the model there."""
    key: SecretStr = Field(default_factory=_upstream_key, exclude=True)
    """Its API key; also as CODEFEND_LAB_UPSTREAM_KEY."""
    concurrency: PositiveInt = 4
    """Calls in flight at once."""
    price_in: float = Field(0.0, ge=0)
    """Of a million tokens read; shown as cost while the search runs."""
    price_out: float = Field(0.0, ge=0)
    """Of a million tokens written."""
    proposes: bool = False
    """Whether this model also writes the proposals, instead of the seeded grammar."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call: an image, the whole prompt, and whether a caption (a long answer) is wanted."""

    image: np.ndarray
    prompt: str
    is_caption: bool

    @property
    def max_tokens(self) -> int:
        """Longest answer."""
        return MAX_CAPTION_TOKENS if self.is_caption else MAX_ANSWER_TOKENS


@dataclass(slots=True)
class Meter:
    """What a search has asked for.

    Attributes:
        calls: answered.
        tokens_in: read by the upstream, as it says itself.
        tokens_out: written by it.
        price_in: of a million tokens read, in the user's currency.
        price_out: of a million tokens written.
    """

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    price_in: float = 0.0
    price_out: float = 0.0

    @property
    def cost(self) -> float:
        """In the currency of the prices."""
        total = self.price_in * self.tokens_in + self.price_out * self.tokens_out
        return total / _PRICED

    def __str__(self) -> str:
        tokens = f"{self.tokens_in + self.tokens_out:,} tokens"
        paid = f", cost {self.cost:.4f}" if self.cost else ""
        return f"{self.calls:,} calls, {tokens}{paid}"


class AskedModel(Protocol):
    """Answers requests."""

    @property
    def identity(self) -> str:
        """What tells its answers from another's."""

    def answers(self, requests: Sequence[Request], meter: Meter) -> Iterator[tuple[int, str]]:
        """Number and answer of each request, as they come."""


@dataclass(frozen=True, slots=True)
class LocalUpstream:
    """A model in this process, asked in batches.

    Attributes:
        victim: the model.
        batch_size: most prompts at once.
    """

    victim: Victim
    batch_size: int = 256

    @property
    def identity(self) -> str:
        """Its weights."""
        return self.victim.sha256

    def answers(self, requests: Sequence[Request], meter: Meter) -> Iterator[tuple[int, str]]:
        """See `AskedModel.answers`; captions and answers apart, because their lengths differ."""
        for is_caption in (True, False):
            own = [i for i, request in enumerate(requests) if request.is_caption is is_caption]
            for start in range(0, len(own), self.batch_size):
                chunk = own[start : start + self.batch_size]
                texts = generate(
                    self.victim,
                    [requests[i].image for i in chunk],
                    [[requests[i].prompt] for i in chunk],
                    max_new_tokens=requests[chunk[0]].max_tokens,
                    batch_size=self.batch_size,
                )
                meter.calls += len(chunk)
                yield from ((i, text) for i, (text,) in zip(chunk, texts, strict=True))


@dataclass(frozen=True, slots=True)
class HttpUpstream:
    """An OpenAI-style upstream.

    Attributes:
        client: with its base URL and key.
        model: its name there.
        concurrency: requests in flight at once.
    """

    client: ServiceClient
    model: str
    concurrency: int = 4

    @property
    def identity(self) -> str:
        """Its address and the model's name."""
        return f"{self.client.http.base_url} {self.model}"

    def answers(self, requests: Sequence[Request], meter: Meter) -> Iterator[tuple[int, str]]:
        """See `AskedModel.answers`."""
        with ThreadPoolExecutor(self.concurrency) as pool:
            sent = {pool.submit(self._ask, request): i for i, request in enumerate(requests)}
            for done in as_completed(sent):
                text, usage = done.result()
                meter.calls += 1
                meter.tokens_in += int(usage.get("prompt_tokens") or 0)
                meter.tokens_out += int(usage.get("completion_tokens") or 0)
                yield sent[done], text

    def complete(self, prompt: str, max_tokens: int, meter: Meter) -> str:
        """The answer to a text without an image; counted like any other call."""
        text, usage = self._post([{"type": "text", "text": prompt}], max_tokens)
        meter.calls += 1
        meter.tokens_in += int(usage.get("prompt_tokens") or 0)
        meter.tokens_out += int(usage.get("completion_tokens") or 0)
        return text

    def _ask(self, request: Request) -> tuple[str, Mapping[str, Any]]:
        url = data_url(encode_image(request.image), ImageFormat.PNG)
        image = {"type": "image_url", "image_url": {"url": url}}
        return self._post([image, {"type": "text", "text": request.prompt}], request.max_tokens)

    def _post(
        self, content: list[dict[str, Any]], max_tokens: int
    ) -> tuple[str, Mapping[str, Any]]:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        answer = self.client.post(_CHAT, body)
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise LabError(f"{self.identity}: no chat completion in its answer") from error
        return str(text or "").strip(), answer.get("usage") or {}


@dataclass(slots=True)
class AnswerLog:
    """Answers on disk, a line each, in the order in which they came.

    Attributes:
        file: JSON lines; one that a kill cut short is not counted.
        upstreams: by the name of the subject.
        meter: of this process's own calls.
    """

    file: Path
    upstreams: Mapping[str, AskedModel]
    meter: Meter = field(default_factory=Meter)
    _known: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Reads what is known."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        whole = self.file.read_bytes() if self.file.exists() else b""
        for line in whole.splitlines(keepends=True):
            if line.endswith(b"\n"):
                key, text = json.loads(line)
                self._known[key] = text
        if whole and not whole.endswith(b"\n"):
            self.file.write_bytes(whole[: whole.rfind(b"\n") + 1])

    def __len__(self) -> int:
        """How many answers are known."""
        return len(self._known)

    def ask(self, asked: Sequence[tuple[str, Request]]) -> list[str]:
        """Answers to requests of subjects; only what is not known costs a call.

        Args:
            asked: subject and request.
        """
        keys = [self._key(*pair) for pair in asked]
        todo = {k: pair for k, pair in zip(keys, asked, strict=True) if k not in self._known}
        for subject, upstream in self.upstreams.items():
            own = [(key, request) for key, (name, request) in todo.items() if name == subject]
            if not own:
                continue
            coming = upstream.answers([request for _, request in own], self.meter)
            with self.file.open("ab") as out, progress(total=len(own), desc=subject) as bar:
                for number, text in coming:
                    self.keep(own[number][0], text, out)
                    bar.set_postfix_str(str(self.meter), refresh=False)
                    bar.update()
        return [self._known[key] for key in keys]

    def once(self, key: str, make: Any) -> str:
        """The text of that key; `make` makes it where it is not known."""
        if key not in self._known:
            with self.file.open("ab") as out:
                self.keep(key, make(), out)
        return self._known[key]

    def keep(self, key: str, text: str, out: Any) -> None:
        """Writes an answer down."""
        out.write(json.dumps([key, text]).encode() + b"\n")
        out.flush()
        self._known[key] = text

    def _key(self, subject: str, request: Request) -> str:
        return digest_of(self.upstreams[subject].identity, request)
