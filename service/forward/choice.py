"""Which picture the model gets to see: the one place where failing closed or open is decided."""

from dataclasses import dataclass

from codefend.service.errors import PurificationFailed
from codefend.service.policy import Mode, OnPurifyFailure
from codefend.service.processes.pixels import Picture

__all__ = ["Choice", "choose_picture"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is forwarded, and if that is not the purified picture, why."""

    picture: Picture
    bypass_reason: str | None = None


def choose_picture(mode: Mode, on_purify_failure: OnPurifyFailure, *, was_purified: bool) -> Choice:
    """Chooses the picture to forward.

    Args:
        mode: In shadow mode the model always sees the original.
        on_purify_failure: Whether an original may take the place of a picture that failed.
        was_purified: Whether there is a purified picture.

    Raises:
        PurificationFailed: There is none, and nothing else may be forwarded.
    """
    if mode is Mode.SHADOW:
        return Choice(Picture.DECODED, "shadow")
    if was_purified:
        return Choice(Picture.PURIFIED)
    if on_purify_failure is OnPurifyFailure.PASS:
        return Choice(Picture.DECODED, "purify_failure")
    raise PurificationFailed
