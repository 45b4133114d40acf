"""A running service as a stranger meets it: PNG uploads over HTTP, answers as text."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from codefend.lab.errors import LabError
from codefend.models.codec import ImageFormat, data_url

__all__ = ["Reply", "ServiceClient"]

_PASSING = frozenset({429, 503})  # refused now, not for good
_MAX_TRIES = 60


@dataclass(frozen=True, slots=True)
class Reply:
    """What a response shows.

    Attributes:
        text: the caption or the answer.
        purified: the purified image as a ``data:`` URL; empty where there is none.
        defence: names of purifier and prompt, with versions: which defence it was.
        disclosure: ``full`` where measurements are shown, else ``minimal``.
    """

    text: str
    purified: str
    defence: str
    disclosure: str


@dataclass(frozen=True, slots=True)
class ServiceClient:
    """Asks one service; safe to call from several threads.

    Attributes:
        http: with the service's base URL and, where it wants one, its key.
        sleep: waits so many seconds.
    """

    http: httpx.Client
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def connect(cls, url: str, *, key: str = "", timeout_s: float = 120.0) -> ServiceClient:
        """A client of the service at ``url``, with an API key where it has any."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return cls(httpx.Client(base_url=url, headers=headers, timeout=timeout_s))

    def ask(self, png: bytes, question: str | None, *, max_tokens: int) -> Reply:
        """One query: the answer to a question about an image, or a caption where it is None.

        A refusal that passes is waited out; it tells the attacker nothing and costs no query.

        Args:
            png: the upload.
            question: what is asked.
            max_tokens: longest answer.

        Raises:
            LabError: where there is no service, or it refuses for good.
        """
        path, field = ("/v1/caption", "caption") if question is None else ("/v1/vqa", "answer")
        body: dict[str, Any] = {
            "image": data_url(png, ImageFormat.PNG),
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if question is not None:
            body["question"] = question
        return _reply(self._post(path, body), field)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        for _ in range(_MAX_TRIES):
            try:
                response = self.http.post(path, json=body)
            except httpx.HTTPError as error:
                raise LabError(f"no answer from {self.http.base_url}: {error!r}") from error
            if response.status_code not in _PASSING:
                break
            self.sleep(_retry_after_s(response))
        if response.status_code != 200:
            shown = response.text[:200]
            raise LabError(f"{self.http.base_url} answered {response.status_code}: {shown}")
        answer: dict[str, Any] = response.json()
        return answer


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return max(0.1, float(response.headers.get("retry-after", "1")))
    except ValueError:
        return 1.0


def _reply(answer: dict[str, Any], field: str) -> Reply:
    try:
        defence = answer["defense"]
        named = (defence["purifier"], defence["prompt_template"])
        return Reply(
            text=answer[field],
            purified=answer.get("purified_image") or "",
            defence=" ".join(f"{part['name']} {part['version']}" for part in named if part),
            disclosure="minimal" if answer.get("timings_ms") is None else "full",
        )
    except (KeyError, TypeError) as error:
        raise LabError(f"this is no CoDefend service: {error!r} in its answer") from error
