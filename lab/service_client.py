"""The one client of a running service: PNG uploads over HTTP, answers as text, patience.

Query attacks, the evaluation of a served defence and ``data ask`` meet the service here as a
stranger would. Retries are tenacity's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_result, stop_after_attempt

from codefend.lab.errors import LabError
from codefend.models.codec import ImageFormat, data_url

__all__ = ["ServedAnswer", "ServiceClient"]

_PASSING = frozenset({429, 503})  # refused now, not for good
_MAX_TRIES = 60
_SHORTEST_WAIT_S, _USUAL_WAIT_S, _LONGEST_WAIT_S = 0.1, 1.0, 3600.0


@dataclass(frozen=True, slots=True)
class ServedAnswer:
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
        """A client of the service at ``url``, with an API key where it has any.

        Raises:
            LabError: where the URL is not one of HTTP.
        """
        if not url.startswith(("http://", "https://")):
            raise LabError(f"{url} must begin with http:// or https://")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return cls(httpx.Client(base_url=url, headers=headers, timeout=timeout_s))

    def ask(self, png: bytes, question: str | None, *, max_tokens: int) -> ServedAnswer:
        """One query: the answer to a question about an image, or a caption where it is None.

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
        return _read(self.post(path, body), field)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Posts JSON until the service takes it, and gives the JSON object that it answers.

        A refusal that passes (429, 503) is waited out as long as Retry-After says; it tells an
        attacker nothing and costs no query.

        Raises:
            LabError: where there is no service, or it refuses for good.
        """
        retrying = Retrying(
            retry=retry_if_result(lambda response: response.status_code in _PASSING),
            wait=_told_wait_s,
            stop=stop_after_attempt(_MAX_TRIES),
            sleep=self.sleep,
            retry_error_callback=_last_response,
        )
        url = self.http.base_url
        try:
            response: httpx.Response = retrying(self.http.post, path, json=body)
        except httpx.HTTPError as error:
            raise LabError(f"no answer from {url}: no service there in time: {error!r}") from error
        if response.status_code != httpx.codes.OK:
            raise LabError(f"{url} answered {response.status_code}: {response.text[:300]}")
        try:
            answer = response.json()
        except ValueError as error:
            raise LabError(f"{url}{path}: the answer is not JSON") from error
        if not isinstance(answer, dict):
            raise LabError(f"{url}{path}: the answer is not a JSON object")
        return answer


def _last_response(state: RetryCallState) -> httpx.Response:
    assert state.outcome is not None  # noqa: S101 - tenacity asks after an attempt alone
    response: httpx.Response = state.outcome.result()
    return response


def _told_wait_s(state: RetryCallState) -> float:
    """RFC 9110, 10.2.3: what Retry-After says, in seconds or as a date; a second where neither."""
    told = _last_response(state).headers.get("retry-after", "").strip()
    try:
        if told.isascii() and told.isdigit():
            wait_s = float(told)
        else:
            date = parsedate_to_datetime(told)
            wait_s = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except ValueError:
        wait_s = _USUAL_WAIT_S
    return min(max(_SHORTEST_WAIT_S, wait_s), _LONGEST_WAIT_S)


def _read(answer: dict[str, Any], field: str) -> ServedAnswer:
    try:
        defence = answer["defense"]
        named = (defence["purifier"], defence["prompt_template"])
        return ServedAnswer(
            text=answer[field],
            purified=answer.get("purified_image") or "",
            defence=" ".join(f"{part['name']} {part['version']}" for part in named if part),
            disclosure="minimal" if answer.get("timings_ms") is None else "full",
        )
    except (KeyError, TypeError) as error:
        raise LabError(f"this is no CoDefend service: {error!r} in its answer") from error
