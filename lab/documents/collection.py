"""All documents of a run: every kind, every text size, so many of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from codefend.lab.documents.document import Document
from codefend.lab.documents.fonts import Fonts
from codefend.lab.documents.page import draw_page
from codefend.lab.documents.receipt import draw_receipt
from codefend.lab.documents.screen import draw_screen

__all__ = ["TEXT_SIZES_PX", "documents"]

TEXT_SIZES_PX = (10, 12, 16, 24, 32)

_KINDS: Mapping[str, Callable[..., Document]] = {
    "page": draw_page,
    "screen": draw_screen,
    "receipt": draw_receipt,
}


def documents(
    fonts: Fonts,
    *,
    num: int,
    text_sizes_px: Sequence[int] = TEXT_SIZES_PX,
    seed: int = 0,
) -> list[Document]:
    """Documents of every kind in every size; the same arguments draw the same pixels.

    Args:
        fonts: typefaces.
        num: how many of each kind and size.
        text_sizes_px: em sizes.
        seed: of all texts.
    """
    return [
        draw(index, size_px, fonts, seed=seed)
        for draw in _KINDS.values()
        for size_px in text_sizes_px
        for index in range(num)
    ]
