"""A running CoDefend as a stranger meets it: answers, purified images, and what is disclosed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pybase64

from codefend.lab.victims.patient_client import PatientClient, RemoteError
from codefend.lab.victims.remote import png_url

__all__ = ["CodefendService", "Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the service gave.

    Attributes:
        text: the caption or answer; empty where only purification was asked for.
        purified: the purified image as a PNG file; None where the service let the image pass.
        defense: what it says it did.
        timings_ms: milliseconds by stage; None where the service does not disclose them.
    """

    text: str
    purified: bytes | None
    defense: Mapping[str, Any]
    timings_ms: Mapping[str, float] | None


class CodefendService:
    """Puts questions to CoDefend's own endpoints."""

    def __init__(
        self, client: PatientClient, *, name: str = "codefend", max_tokens: int | None = None
    ) -> None:
        """Takes the transport.

        Args:
            client: its base URL ends in ``/v1``.
            name: what reports call it.
            max_tokens: longest answer; the service's own limit where None.
        """
        self.name = name
        self._client = client
        self._asked: dict[str, Any] = {"temperature": 0.0}
        if max_tokens is not None:
            self._asked["max_tokens"] = max_tokens

    def ask(self, image: bytes, prompt: str) -> str:
        """The answer of ``vqa`` alone, for whoever sees no more than that."""
        return self.vqa(image, prompt).text

    def vqa(self, image: bytes, question: str) -> Reply:
        """Asks a question about a PNG file.

        Raises:
            RemoteError: where the service refuses or fails.
            ValueError: where the image is no PNG file.
        """
        return self._post("vqa", "answer", {"image": png_url(image), "question": question})

    def caption(self, image: bytes, prompt: str | None = None) -> Reply:
        """Has a PNG file described, in the service's usual words or in others; see ``vqa``."""
        asked = {} if prompt is None else {"prompt": prompt}
        return self._post("caption", "caption", {"image": png_url(image), **asked})

    def purify(self, image: bytes) -> Reply:
        """Has a PNG file purified, and no model asked; see ``vqa``."""
        body = {"image": png_url(image), "output_format": "png"}
        return _read("purify", None, self._client.post("purify", body))

    def _post(self, path: str, text_field: str, body: dict[str, Any]) -> Reply:
        return _read(path, text_field, self._client.post(path, body | self._asked))


def _read(path: str, text_field: str | None, document: dict[str, Any]) -> Reply:
    try:
        url = document["purified_image"]
        return Reply(
            text="" if text_field is None else document[text_field].strip(),
            purified=None if url is None else pybase64.b64decode(url.partition(",")[2]),
            defense=dict(document["defense"]),
            timings_ms=document["timings_ms"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RemoteError(f"{path}: not an answer of CoDefend: {error!r}") from error
