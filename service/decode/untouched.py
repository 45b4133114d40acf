"""Checks the fields of a chat that are passed on untouched: none of them may bring in an image.

Servers take images under names of their own, beside the parts of a message (`images`,
`image_data`, `multi_modal_data`, ...), and some of them read names without regard to case.
"""

import re
from collections.abc import Collection
from typing import Any

from service.errors import UnsupportedContent

__all__ = ["check_untouched"]

_MEDIA_FIELDS = frozenset(
    {
        "attachments", "audio_data", "audio_url", "audio_urls", "audios", "file", "file_data",
        "file_id", "file_ids", "files", "image", "image_data", "image_embeds", "image_url",
        "image_urls", "images", "input_audio", "input_embeds", "input_image", "input_images",
        "media", "mm_data", "multi_modal_data", "multimodal_data", "pixel_values",
        "prompt_embeds", "video", "video_data", "video_url", "video_urls", "videos",
    }
)  # fmt: skip
_MEDIA_URL = re.compile(r"\s*data:\s*(image|video|audio|application)/", re.IGNORECASE)
_LONGEST_SHOWN_NAME = 64


def check_untouched(
    fields: dict[str, Any],
    understood: Collection[str],
    path: str = "",
    more_media: Collection[str] = (),
) -> None:
    """Refuses a field through which a model could be shown what nobody purified.

    Args:
        fields: Of the request, or of one message.
        understood: Names that the caller reads itself.
        path: Where the fields are, ending in a dot, for errors.
        more_media: Names that hold media here, and something else in other places.

    Raises:
        UnsupportedContent: A field names or holds media, or has the name of one that is understood
            in another spelling: Go's JSON reader, for one, would take it for that.
    """
    for name, value in fields.items():
        if name in understood:
            continue
        # Not lower(): there is a long s and a kelvin sign, and Go folds both.
        folded = name.casefold()
        param = path + name[:_LONGEST_SHOWN_NAME]
        if folded in understood:
            msg = f"The field is called {folded}."
            raise UnsupportedContent(msg, param)
        if value and (folded in _MEDIA_FIELDS or folded in more_media):
            raise UnsupportedContent(param=param)
        if _holds_media_url(value):
            raise UnsupportedContent(param=param)


def _holds_media_url(value: Any) -> bool:
    if isinstance(value, str):
        return _MEDIA_URL.match(value) is not None
    if isinstance(value, list):
        return any(_holds_media_url(entry) for entry in value)
    if isinstance(value, dict):
        return any(_holds_media_url(entry) for entry in value.values())
    return False
