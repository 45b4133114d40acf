"""`codefend report`: what the log of a rollout in shadow mode says about enforcing.

What would have been flagged, changed and refused, what it would have cost, and whether the flag
threshold fits this traffic. It reads the events that `deploy/observability/events.schema.json`
describes, and passes over every other line.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from codefend.models.detector.calibration import FLAG_ABOVE, is_flagged
from codefend.service.logs import EVENT_VERSION

__all__ = ["RolloutReport", "read_events"]

EXPECTED_FLAGGED = 1 - FLAG_ABOVE
PERCENTILES = (50, 95, 99)
# What purification adds to a request; the rest of its time it would take without.
ADDED_STAGES = ("decode", "queue", "purify", "encode")
Z_95 = 1.96
MOST_SHOWN = 10


def read_events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events among the lines of a log, of this version of their schema."""
    events = []
    for line in lines:
        # A container's log may have something before each line.
        _, brace, rest = line.partition("{")
        try:
            event = json.loads(brace + rest)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == EVENT_VERSION:
            events.append(event)
    return events


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """What a log says; shares are in [0, 1], times in milliseconds.

    Attributes:
        began: Time of the first event.
        ended: Of the last.
        num_requests: Requests in all.
        num_images: Images that were purified, or should have been.
        num_judged: Of these, those that have a suspicion.
        num_flagged: Of these, those that look attacked.
        flagged_interval: 95 % interval of their share (Wilson 1927).
        flagged_by_caller: Of each caller, the most first.
        num_flagged_files: Different files among those that look attacked.
        num_changed: Images that the model would have got purified.
        num_failed: Images that could not be purified: 503 where the service enforces.
        refused_fields: Requests that would have been refused, by the field.
        added_ms: What purification took of requests with images, by percentile.
        total_ms: Their whole time, by percentile.
        busiest_images_per_s: In the busiest minute.
        threshold: The suspicion that one in a hundred images of this traffic is above; None where
            too few were judged, or it lies beyond what the detector's calibration tells apart.
    """

    began: str
    ended: str
    num_requests: int
    num_images: int
    num_judged: int
    num_flagged: int
    flagged_interval: tuple[float, float]
    num_flagged_files: int
    num_changed: int
    num_failed: int
    busiest_images_per_s: float
    threshold: float | None
    flagged_by_caller: dict[str, int] = field(default_factory=dict)
    refused_fields: dict[str, int] = field(default_factory=dict)
    added_ms: dict[int, float] = field(default_factory=dict)
    total_ms: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Sequence[dict[str, Any]]) -> Self:
        """Counts what happened.

        Raises:
            ValueError: There is no image among the events.
        """
        images = [event for event in events if event["message"] == "image"]
        requests = [event for event in events if event["message"] == "request"]
        if not images:
            msg = "there is no image in this log; events need CODEFEND_LOG_LEVEL=info"
            raise ValueError(msg)
        judged = [event for event in images if event.get("suspicion") is not None]
        flagged = [event for event in judged if is_flagged(event["suspicion"])]
        failed = [e for e in images if "verdict" in e and "cached" not in e]
        with_images = list({event["request_id"]: event["timings_ms"] for event in images}.values())
        names = [name for e in requests for name in e.get("fields", {}).get("names", ())]
        times = sorted(event["time"] for event in events)
        minutes = Counter(event["time"][:16] for event in images)
        return cls(
            began=times[0],
            ended=times[-1],
            num_requests=len(requests),
            num_images=len(images),
            num_judged=len(judged),
            num_flagged=len(flagged),
            flagged_interval=_wilson(len(flagged), len(judged)),
            num_flagged_files=len({event["sha256"] for event in flagged}),
            num_changed=sum("cached" in event for event in images),
            num_failed=len(failed),
            busiest_images_per_s=max(minutes.values()) / 60,
            threshold=_threshold([event["suspicion"] for event in judged]),
            flagged_by_caller=_commonest(event["caller"] for event in flagged),
            refused_fields=_commonest(names),
            added_ms=_percentiles(
                sum(timings.get(stage, 0.0) for stage in ADDED_STAGES) for timings in with_images
            ),
            total_ms=_percentiles(timings["total"] for timings in with_images),
        )

    def to_json(self) -> str:
        """All of it, for programs."""
        return json.dumps(asdict(self), indent=1)

    def to_markdown(self) -> str:
        """All of it, for people."""
        low, high = self.flagged_interval
        share = self.num_flagged / self.num_judged if self.num_judged else math.nan
        rows = [
            ("requests", f"{self.num_requests}"),
            ("images", f"{self.num_images}"),
            ("images in the busiest minute", f"{self.busiest_images_per_s:.2f} a second"),
            ("would have been changed", f"{self.num_changed} images"),
            ("could not be purified: 503", f"{self.num_failed} images"),
            (
                "would have been flagged",
                f"{self.num_flagged} of {self.num_judged} images, {share:.1%} "
                f"(95 % interval {low:.1%} to {high:.1%}); {self.num_flagged_files} files",
            ),
            *(
                (f"flagged, caller {c or 'without a key'}", f"{n}")
                for c, n in self.flagged_by_caller.items()
            ),
            *(
                (f"would have been refused: field {name}", f"{n} requests")
                for name, n in self.refused_fields.items()
            ),
            ("purification took, ms", _shown(self.added_ms)),
            ("of requests that took, ms", _shown(self.total_ms)),
        ]
        table = "\n".join(f"| {what} | {figure} |" for what, figure in rows)
        head = f"# Rollout, {self.began} to {self.ended}\n\n| what | figure |\n|---|---|\n{table}\n"
        return f"{head}\n{self.advice()}\n"

    def advice(self) -> str:
        """What this traffic says of the flag threshold, and what to do about it."""
        low, high = self.flagged_interval
        if self.num_judged < 100:
            return f"{self.num_judged} images say nothing of the threshold; let 100 or more pass."
        if low <= EXPECTED_FLAGGED <= high:
            return (
                "The flag threshold fits this traffic: one in a hundred clean images is meant to "
                "be above it. Set CODEFEND_MODE=enforce."
            )
        if self.threshold is None:
            return (
                "Over one in a hundred images lie beyond all that the detector's calibration saw: "
                "an attack, or other images than those. Look at them (CODEFEND_QUARANTINE), and "
                "calibrate on clean ones of your own: "
                "codefend-lab detect calibrate --photos DIR --out my-detector"
            )
        return (
            f"If this traffic was clean, one in a hundred of its images is above a suspicion of "
            f"{self.threshold:.4f}, and not above {FLAG_ABOVE}. Calibrate on it: "
            "codefend-lab detect calibrate --log LOG --out my-detector"
        )


def _threshold(suspicions: Sequence[float]) -> float | None:
    if len(suspicions) < 100:
        return None
    found = float(np.quantile(suspicions, FLAG_ABOVE))
    return found if found < 1.0 else None


def _commonest(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common(MOST_SHOWN))


def _percentiles(values: Iterable[float]) -> dict[int, float]:
    found = list(values)
    return {p: round(float(np.percentile(found, p)), 1) for p in PERCENTILES}


def _shown(percentiles: dict[int, float]) -> str:
    return ", ".join(f"p{p} {value:.0f}" for p, value in percentiles.items())


def _wilson(num_hits: int, num_trials: int) -> tuple[float, float]:
    """Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference"."""
    if not num_trials:
        return 0.0, 1.0
    share, squared = num_hits / num_trials, Z_95**2
    scale = 1 + squared / num_trials
    middle = (share + squared / (2 * num_trials)) / scale
    half = Z_95 / scale * math.sqrt(share * (1 - share) / num_trials + squared / num_trials**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)
