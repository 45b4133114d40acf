"""A model behind an OpenAI-style API: no weights and no gradients, only questions and answers."""

from __future__ import annotations

from typing import Any

from codefend.lab.victims.patient_client import PatientClient, RemoteError
from codefend.models.codec import ImageFormat, data_url

__all__ = ["RemoteVictim", "png_url"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_url(image: bytes) -> str:
    """A PNG file as a ``data:`` URL.

    Raises:
        ValueError: where the bytes are no PNG file: another format would be another image.
    """
    if not image.startswith(_PNG_SIGNATURE):
        raise ValueError("the image must be a PNG file")
    return data_url(image, ImageFormat.PNG)


class RemoteVictim:
    """Asks ``chat/completions`` greedily, one image and one prompt at a time."""

    def __init__(self, client: PatientClient, model: str, *, max_tokens: int = 64) -> None:
        """Takes the transport.

        Args:
            client: its base URL ends in ``/v1``, as an OpenAI client's does.
            model: as the server names it; also what reports call the victim.
            max_tokens: longest answer.
        """
        self.name = model
        self._client = client
        self._max_tokens = max_tokens

    def ask(self, image: bytes, prompt: str) -> str:
        """Puts a prompt about an image.

        Args:
            image: a PNG file.
            prompt: the user's text.

        Returns:
            The answer, without blanks around it; empty where the model says nothing.

        Raises:
            RemoteError: where there is no answer.
            ValueError: where the image is no PNG file.
        """
        content = [
            {"type": "image_url", "image_url": {"url": png_url(image)}},
            {"type": "text", "text": prompt},
        ]
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._max_tokens,
            "temperature": 0.0,
            "stream": False,
        }
        return _read(self._client.post("chat/completions", body))


def _read(document: dict[str, Any]) -> str:
    try:
        text = document["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise RemoteError(f"chat/completions: no answer in it: {error!r}") from error
    if text is not None and not isinstance(text, str):
        raise RemoteError("chat/completions: the answer is not text")
    return (text or "").strip()
