"""Refusals on their way out of a decode process, which may send no objects."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from codefend.service.errors import InvalidImage, RequestRefused

__all__ = ["naming_place", "refusal_from_report", "report_refusal"]


def report_refusal(refusal: RequestRefused) -> dict[str, Any]:
    """What a decode process answers instead of its work."""
    return {
        "refused": refusal.code,
        "message": refusal.public_message,
        "param": refusal.param,
    }


def refusal_from_report(report: dict[str, Any]) -> RequestRefused | None:
    """Rebuilds a refusal; None if the answer reports none.

    An unknown code, which only a process gone bad could send, becomes a plain refusal.
    """
    if "refused" not in report:
        return None
    for refusal in RequestRefused.__subclasses__():
        if refusal.code == report["refused"]:
            return refusal(report["message"], report["param"])
    return InvalidImage()


@contextmanager
def naming_place(param: str) -> Iterator[None]:
    """Says in a refusal where the image stood that is at fault.

    Raises:
        RequestRefused: The same that was raised inside, with this place.
    """
    try:
        yield
    except RequestRefused as refusal:
        raise type(refusal)(refusal.public_message, param) from refusal
