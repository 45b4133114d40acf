"""Purifies one picture and chooses what the model sees of it; every endpoint with a model asks."""

import contextlib
import logging
from dataclasses import dataclass
from typing import Any

from codefend.models.codec import ImageFormat, data_url
from codefend.service.admit.visit import Visit
from codefend.service.decode.chat import ChatImage
from codefend.service.decode.fields import Findings
from codefend.service.decode.formats import identify
from codefend.service.decode.stage import naming_place
from codefend.service.errors import PurificationFailed
from codefend.service.forward.choice import choose_picture
from codefend.service.guard import Guard
from codefend.service.metrics import Stage
from codefend.service.policy import Mode
from codefend.service.processes.pixels import Picture
from codefend.service.stages import Purified, Upload

__all__ = ["Pictures", "note_findings", "pass_picture", "shield_picture"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Data URLs: what the model sees, and what the caller gets to see."""

    forwarded: str
    purified: str | None
    purification: Purified | None
    bypassed: bool


async def shield_picture(
    guard: Guard, visit: Visit, upload: Upload, *, is_shown: bool = True
) -> Pictures:
    """Purifies a picture, and encodes it once for model and caller.

    Args:
        guard: Leads through the stages.
        visit: The request.
        upload: The picture.
        is_shown: Whether the caller wants to see the purified picture.

    Raises:
        PurificationFailed: It failed, and no policy lets the original take its place.
        Overloaded: The line is full.
        ImageFlagged: It looks attacked, and such pictures are refused.
    """
    purification: Purified | None = None
    with contextlib.suppress(PurificationFailed):
        purification = await guard.purify(visit, upload)
    was_purified = purification is not None
    policy = visit.policy
    choice = choose_picture(policy.mode, policy.on_purify_failure, was_purified=was_purified)
    if choice.bypass_reason is not None:
        _note_bypass(guard, visit, upload.facts, choice.bypass_reason)
    forwarded = await _as_url(guard, visit, upload, choice.picture)
    if choice.picture is Picture.PURIFIED:
        return Pictures(forwarded, forwarded, purification, bypassed=False)
    purified = None
    if was_purified and is_shown:
        purified = await _as_url(guard, visit, upload, Picture.PURIFIED)
    return Pictures(forwarded, purified, purification, bypassed=True)


async def pass_picture(
    guard: Guard, visit: Visit, image: ChatImage, reason: Mode = Mode.OFF
) -> Pictures:
    """Gives the model a picture as it was sent: purification is off, or cannot read it in shadow.

    Raises:
        RequestRefused: It is no JPEG, PNG or WebP; the error names its place.
    """
    with visit.timings.stage(Stage.DECODE), naming_place(image.param):
        sent = await identify(image.file)
    visit.images.append(sent.facts)
    if visit.slot is not None:
        visit.slot.arrive()
    _note_bypass(guard, visit, sent.facts, reason)
    return Pictures(sent.url, None, None, bypassed=True)


def note_findings(guard: Guard, visit: Visit, findings: Findings) -> None:
    """Counts the fields that passed unrefused or were taken out; the request's log line names them.

    Args:
        guard: Has the metrics.
        visit: The request.
        findings: What its fields would have been refused for.
    """
    for verdict, count in findings.counts.items():
        guard.metrics.fields.labels(verdict).inc(count)
    if findings.counts:
        visit.facts["fields"] = {"verdicts": dict(findings.counts), "names": findings.names}


async def _as_url(guard: Guard, visit: Visit, upload: Upload, picture: Picture) -> str:
    # Lossless: a lossy codec would add an alteration that no evaluation has scored.
    encoded = await guard.encode(visit, upload, picture, ImageFormat.PNG)
    return data_url(encoded, ImageFormat.PNG)


def _note_bypass(guard: Guard, visit: Visit, facts: dict[str, Any], reason: str) -> None:
    guard.metrics.bypass.labels(reason).inc()
    facts["bypassed"] = reason
    fields = {"request_id": visit.request_id, "reason": reason}
    logger.warning("an unpurified image is forwarded", extra={"fields": fields})
