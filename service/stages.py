"""What one stage of a request hands to the next: the stages share these, and import no sibling.

decode hands a `DecodedImage` on; queueing makes a `Job` of it, and a `JobBatch` of jobs; purify
gives `Purified` back. Whatever two stages have in common stands here or below, and the pipeline
alone knows their order.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from codefend.models.buckets import Bucket
from codefend.models.purifier.strengths import STRENGTHS, Strength
from codefend.models.tiles import Tiling
from codefend.service.context import RequestContext, Slot
from codefend.service.fairness import Flow
from codefend.service.processes.pixels import PixelLease

__all__ = [
    "Admit",
    "Admitted",
    "BatchFailure",
    "BatchSource",
    "DecodedImage",
    "EngineFacts",
    "Incoming",
    "Job",
    "JobBatch",
    "Original",
    "PictureHeader",
    "Purified",
    "Reservation",
    "Shielded",
    "jobs_of",
]


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """What a decode process says of a picture before it decodes it.

    Attributes:
        format: Its name, as answers and logs have it: `PNG`, `JPEG`, `HEIC` and so on.
        file_pixels: How many pixels the file has.
        height: Rows once it is scaled, before any turn that its metadata asks for.
        width: Columns.
        sha256: Of its file, in hex.
    """

    format: str
    file_pixels: int
    height: int
    width: int
    sha256: str


@dataclass(slots=True, eq=False)
class Admitted:
    """A picture that was let in.

    Attributes:
        pixels: Memory for it.
        size: Height and width, where its pixels are known already and are not decoded again.
        context: What whoever let it in keeps of it.
        release: Frees what it holds; called once, when the picture is given up or done with.
    """

    pixels: PixelLease
    release: Callable[[], None]
    size: tuple[int, int] | None = None
    context: Any = None


# Decides on a picture by its header; raises a CodefendError where it is refused.
Admit = Callable[[PictureHeader], Awaitable[Admitted]]


@dataclass(frozen=True, slots=True)
class Original:
    """An image that is passed on as it was sent.

    Attributes:
        file: Its bytes.
        param: Its place in the request.
        fields: What came beside it.
        facts: What the audit may say of it; later stages add to it.
    """

    file: bytes
    param: str
    fields: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def release(self) -> None:
        """Holds nothing that would have to be freed."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded request.

    Attributes:
        admitted: What it holds; its pixels in shared memory first of all.
        height: Rows.
        width: Columns.
        sha256: Of the image's file, in hex.
        fields: What came beside the image.
        facts: What the audit may say of it; later stages add to it.
        release: Frees what it holds.
    """

    admitted: Admitted
    height: int
    width: int
    sha256: str
    fields: dict[str, Any]
    facts: dict[str, Any]
    release: Callable[[], None]


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says about itself; responses repeat its name, version, steps and noise.

    `steps` and `noise_level` are the purifier's own; `levels` has the noise level of each step by
    strength, of every one that it has. `details` are for the log: precision, memory, and whatever
    else its backend has to say.
    """

    name: str
    version: str
    steps: int
    noise_level: float
    device: str
    model_version: int = 0
    backend: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    levels: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def has(self, strength: Strength) -> bool:
        """Whether the purifier has it; each has its own noise level."""
        return strength in self.levels or strength is Strength.STANDARD

    def levels_at(self, strength: Strength) -> tuple[float, ...]:
        """Of each step.

        Raises:
            ValueError: The purifier has no such strength.
        """
        if strength in self.levels:
            return tuple(self.levels[strength])
        if self.has(strength):
            return tuple(self.noise_level * 0.5**step for step in range(self.steps))
        msg = f"{self.name} has no strength {strength}: set standard, its own noise level"
        raise ValueError(msg)


# What goes through the stages from decode to encode.
Incoming = DecodedImage | Original


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """Places in the queue for a picture that is still being decoded: one for each of its tiles.

    Attributes:
        flow: With what the picture takes turns.
        bucket: The smallest bucket that holds each of its tiles; or the picture, where it is whole.
        num_tiles: How many there are; 1 for a picture that is whole.
        times_steps: How often it passes the network.
    """

    flow: Flow
    bucket: Bucket
    num_tiles: int = 1
    times_steps: int = 1

    @property
    def work_of_tile(self) -> int:
        """Padded pixels of one of its tiles, each as often as it passes the network."""
        return self.bucket.num_pixels * self.times_steps

    @property
    def work(self) -> int:
        """The same of all of it."""
        return self.num_tiles * self.work_of_tile


@dataclass(slots=True, eq=False)
class Job:
    """One image on its way through the purifier, or one tile of an image.

    Attributes:
        pixels: The shared memory of the image.
        height: Rows of the image, or of the tile.
        width: Columns of the image, or of the tile.
        deadline_s: Time at which its answer is worthless.
        queued_at_s: Time at which it was put into the queue.
        caller: Whose it is.
        slot: Its request's place in the ledger.
        reservation: Its image's places in the queue, taken before that was decoded; None if it has
            none.
        image_size: Height and width of the image that it is a tile of; None if it is whole.
        tile: Its number among the tiles of the image.
        strength: How strongly it is purified.
        bucket: The smallest that holds it; known from when it is in the queue.
        flow: With what it takes turns; likewise.
        started_at_s: Time at which its last batch began.
        num_failures: Batches with it that failed.
        group: Names those that it runs with after a failure, and nobody else.
        made_by: What purified it, as its engine describes itself.
        done: Completed with its suspicion when it is purified; fails with PurificationFailed.
    """

    pixels: PixelLease
    height: int
    width: int
    deadline_s: float
    queued_at_s: float
    caller: str = ""
    reservation: Reservation | None = None
    slot: Slot | None = None
    image_size: tuple[int, int] | None = None
    tile: int = 0
    strength: Strength = Strength.STANDARD
    bucket: Bucket = field(init=False)
    flow: Flow = field(init=False)
    started_at_s: float | None = None
    num_failures: int = 0
    group: int | None = None
    made_by: Any = None
    done: asyncio.Future[float | None] = field(default_factory=asyncio.Future)

    @property
    def times_steps(self) -> int:
        """How often it passes the network."""
        return STRENGTHS[self.strength].times_steps


def jobs_of(context: RequestContext, image: DecodedImage, tiling: Tiling) -> list[Job]:
    """A job for each tile of an image; one where it stays in one piece.

    Args:
        context: Its request.
        image: What was let in with a reservation.
        tiling: How it is cut.
    """
    size, now_s = (image.height, image.width), time.monotonic()
    return [
        Job(
            image.admitted.pixels,
            tile.height,
            tile.width,
            context.deadline_s,
            queued_at_s=now_s,
            caller=context.caller,
            strength=context.policy.strength,
            reservation=image.admitted.context,
            slot=context.slot,
            image_size=size,
            tile=number,
        )
        for number, tile in enumerate(tiling.cut(*size))
    ]


@dataclass(frozen=True, slots=True, eq=False)
class JobBatch:
    """Jobs of one strength that run together, padded to one bucket.

    Attributes:
        bucket: Their shape.
        jobs: They.
        num_pixels: Padded pixels of all of them.
        padding_ratio: Part of these that is padding, in [0, 1).
    """

    bucket: Bucket
    jobs: tuple[Job, ...]
    num_pixels: int
    padding_ratio: float

    @property
    def strength(self) -> Strength:
        """Of all of them."""
        return self.jobs[0].strength

    @property
    def times_steps(self) -> int:
        """How often it passes the network."""
        return self.jobs[0].times_steps


class BatchFailure(StrEnum):
    """How a batch failed."""

    RAISED = "raised"
    OUT_OF_MEMORY = "out_of_memory"
    DIED = "died"
    HUNG = "hung"

    @property
    def ended_worker(self) -> bool:
        """Whether a new worker is needed."""
        return self in {BatchFailure.DIED, BatchFailure.HUNG}


class BatchSource(Protocol):
    """Where workers take batches from, and whom they tell what became of them.

    Attributes:
        num_workers: Workers that serve it at present.
        pause_s: Seconds until a worker is there to take a batch, 0 while one is; None if unknown.
    """

    num_workers: int
    pause_s: Callable[[], float | None]

    async def next_batch(self) -> JobBatch:
        """Waits for the next batch and takes its jobs out of the queue."""

    def finish(self, batch: JobBatch, seconds: float) -> None:
        """Ends a batch that took so long."""

    def retry(self, batch: JobBatch, failure: BatchFailure) -> list[Job]:
        """Ends a batch that failed; returns those of its jobs that are given up."""

    def take_all(self) -> list[Job]:
        """Empties the queue, for when there is no worker that could serve it."""

    def hung_after_s(self, batch: JobBatch, limits_s: tuple[float, float]) -> float:
        """Seconds after which a batch counts as hung, between the least and the most."""

    def suppose_cost(self, seconds_per_pixel: float) -> None:
        """Takes a first estimate of what a pixel costs, as from a warm-up."""

    def forget_costs(self) -> None:
        """Forgets what batches have cost: another purifier takes other times."""


@dataclass(frozen=True, slots=True)
class Purified:
    """What purification says of one upload, beside its pixels.

    Attributes:
        suspicion: How much it looked attacked, in [0, 1]; None without a detector.
        flagged: Whether that is above what 1 % of clean images have; None without a detector.
        cached: Whether its purified picture is a replay.
        engine: What purified it.
    """

    suspicion: float | None
    flagged: bool | None
    cached: bool
    engine: EngineFacts


@dataclass(frozen=True, slots=True)
class Shielded:
    """One image on its way to the model.

    Attributes:
        forwarded: A `data:` URL, in ASCII: what the model gets to see.
        purified: The same of what the caller gets to see; None where there is nothing to show.
        engine: What purified it, or would have; None where there is no purifier.
        purification: What purification said of it; None if it failed, or there is none.
        bypassed: Whether the model sees the image unpurified.
        size: Width and height; None for an image that is passed on as it was sent.
    """

    forwarded: bytes
    purified: bytes | None
    engine: EngineFacts | None
    purification: Purified | None
    bypassed: bool
    size: tuple[int, int] | None
