"""A picture of text and its truth, the canvas that documents are drawn on, and their typefaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from codefend.lab.errors import LabError

__all__ = [
    "SYSTEM_FONTS",
    "Box",
    "Canvas",
    "Color",
    "Document",
    "Font",
    "Fonts",
    "Style",
    "TextLine",
]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

Color = tuple[int, int, int]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class TextLine:
    """A run of text and where it stands."""

    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class Document:
    """A picture of text.

    Attributes:
        image: (H, W, 3) uint8.
        lines: all that it says, in no particular order.
        kind: ``page``, ``screen`` or ``receipt``.
        text_size_px: the em size of every letter.
        index: its number; documents of one kind and number say the same in every size, as far
            as there is room.
    """

    image: np.ndarray
    lines: tuple[TextLine, ...]
    kind: str
    text_size_px: int
    index: int

    @property
    def num_characters(self) -> int:
        """Characters of the truth, blanks inside lines counted."""
        return sum(len(line.text) for line in self.lines)


@dataclass(slots=True)
class Canvas:
    """Draws text and shapes, and remembers what was written where.

    Attributes:
        image: RGB; whoever draws shapes draws on ``draw``.
        draw: Pillow's pen on it.
        lines: what was written.
    """

    image: Image.Image
    draw: ImageDraw.ImageDraw = field(init=False)
    lines: list[TextLine] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Takes up the pen."""
        self.draw = ImageDraw.Draw(self.image)

    @classmethod
    def blank(cls, width_px: int, height_px: int, paper: Color) -> Canvas:
        """A canvas of one colour."""
        return cls(Image.new("RGB", (width_px, height_px), paper))

    def write(self, at: tuple[float, float], text: str, font: Font, ink: Color) -> None:
        """Writes one line with its top left corner at ``at``."""
        if text:
            self.draw.text(at, text, font=font, fill=ink)
            self.lines.append(TextLine(text, self.draw.textbbox(at, text, font=font)))

    def finish(self, *, kind: str, text_size_px: int, index: int) -> Document:
        """The document as drawn so far."""
        return Document(np.asarray(self.image), tuple(self.lines), kind, text_size_px, index)


Style = Literal["serif", "sans", "mono"]
SYSTEM_FONTS = Path("/usr/share/fonts")

_PACKAGES: dict[str, dict[Style, str]] = {
    "fonts-dejavu-core": {
        "serif": "DejaVuSerif.ttf",
        "sans": "DejaVuSans.ttf",
        "mono": "DejaVuSansMono.ttf",
    },
    "fonts-liberation": {
        "serif": "LiberationSerif-Regular.ttf",
        "sans": "LiberationSans-Regular.ttf",
        "mono": "LiberationMono-Regular.ttf",
    },
}


@dataclass(frozen=True, slots=True)
class Fonts:
    """Font files by style.

    Attributes:
        files: of each style at least one; a style without any is set in Pillow's built-in face.
    """

    files: Mapping[Style, tuple[Path, ...]]

    @classmethod
    def find(cls, folder: Path = SYSTEM_FONTS) -> Fonts:
        """The DejaVu and Liberation faces anywhere below ``folder``.

        Raises:
            LabError: A face is missing; the message names its package.
        """
        found = {path.name: path for path in sorted(folder.rglob("*.ttf"))}
        for package, faces in _PACKAGES.items():
            missing = sorted(set(faces.values()) - set(found))
            if missing:
                raise LabError(
                    f"{folder} lacks {', '.join(missing)}; install {package} "
                    f"(apt-get install {package}) or give a folder that has it with --fonts"
                )
        return cls(
            {
                style: tuple(found[faces[style]] for faces in _PACKAGES.values())
                for style in get_args(Style)
            }
        )

    @classmethod
    def built_in(cls) -> Fonts:
        """Pillow's own face for every style: the same wherever Pillow is."""
        return cls({})

    @property
    def names(self) -> list[str]:
        """File names, for a report."""
        return sorted(path.name for paths in self.files.values() for path in paths)

    def font(self, style: Style, size_px: int, number: int) -> Font:
        """A face of ``style``; documents take turns by ``number``."""
        paths = self.files.get(style, ())
        if not paths:
            return ImageFont.load_default(size_px)
        # The basic engine: the same advances whether or not Pillow was built with Raqm.
        return ImageFont.truetype(
            str(paths[number % len(paths)]), size_px, layout_engine=ImageFont.Layout.BASIC
        )
