"""Puts purified images into the gaps of a chat: the body that goes to the upstream."""

import json
from collections.abc import Sequence

__all__ = ["fill_gaps"]


def fill_gaps(fragments: Sequence[bytes], urls: Sequence[str], model: str | None) -> bytes:
    """Joins a body. What the client wrote is copied, not read.

    Args:
        fragments: A JSON object with a gap, inside quotes, after each fragment but the last.
        urls: `data:` URLs, one for each gap.
        model: Named in the body where the client names none; None leaves it as it is.

    Raises:
        ValueError: A URL is something else, or there are not as many as gaps.
    """
    if not all(url.startswith("data:image/") for url in urls):
        msg = "only data: URLs are forwarded"
        raise ValueError(msg)
    pieces = [fragments[0]]
    for url, fragment in zip(urls, fragments[1:], strict=True):
        pieces += (url.encode("ascii"), fragment)
    if model is not None:
        # A chat holds messages, and so there is something after the brace.
        pieces[0] = b'{"model":' + json.dumps(model).encode() + b"," + pieces[0][1:]
    return b"".join(pieces)
