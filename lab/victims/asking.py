"""Victims that can only be asked: an image as it is uploaded and a prompt in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

__all__ = ["Askable", "ask_all"]


class Askable(Protocol):
    """A model behind HTTP."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def ask(self, image: bytes, prompt: str) -> str:
        """Puts a prompt about a PNG file; safe in threads.

        Raises:
            RemoteError: where there is no answer.
        """
        ...


def ask_all(
    victim: Askable,
    images: Sequence[bytes],
    prompts: Sequence[Sequence[str]],
    *,
    num_parallel: int = 4,
) -> list[list[str]]:
    """Asks every image its prompts, as ``generate`` does of a victim whose weights are at hand.

    Args:
        victim: the model asked.
        images: a PNG file each.
        prompts: for each image, the texts to ask.
        num_parallel: most questions under way at once.

    Returns:
        For each image, the answers in the order of its prompts.

    Raises:
        RemoteError: where a question gets no answer; those not yet put are dropped.
    """
    with ThreadPoolExecutor(num_parallel) as pool:
        pending = [
            [pool.submit(victim.ask, image, prompt) for prompt in texts]
            for image, texts in zip(images, prompts, strict=True)
        ]
        try:
            return [[answer.result() for answer in answers] for answers in pending]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
