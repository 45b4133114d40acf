"""The limits of one picture, as they are set."""

from codefend.service.decode.picture import PictureLimits
from codefend.service.settings import Settings

__all__ = ["picture_limits"]


def picture_limits(settings: Settings) -> PictureLimits:
    """Takes what concerns pictures out of the settings."""
    return PictureLimits(
        settings.max_pixels,
        settings.max_side_px,
        settings.max_jpeg_scans,
        settings.max_file_parts,
    )
