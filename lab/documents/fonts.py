"""Which typefaces documents are set in, and where Debian keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from PIL import ImageFont

from codefend.lab.documents.document import Font
from codefend.lab.errors import LabError

__all__ = ["SYSTEM_FONTS", "Fonts", "Style"]

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
