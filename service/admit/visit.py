"""One request while it is inside: its id, its clock, its place, and what the log may say of it."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from codefend.service.admit.house import Slot
from codefend.service.forward.breaker import BreakerPermit
from codefend.service.policy import Policy
from codefend.service.timings import Timings
from codefend.service.tracing.context import Trace

__all__ = ["Visit"]


@dataclass(slots=True)
class Visit:
    """Created by the gate for every request; endpoints find it in `request.state.visit`.

    Attributes:
        endpoint: Path, or `other` for paths that are not ours.
        deadline_s: Monotonic time at which the answer is worthless.
        whole_s: Seconds from its arrival until then.
        timings: Its stopwatch.
        caller: Who sent it, as the key ring names them.
        policy: What holds for this caller; a file of keys that changes meanwhile changes nothing.
        slot: Its place in the house; None for requests that take none.
        held_bytes: Of the body and the answer, as they count in the budget.
        passage: Its leave to ask the model; None for requests that do not.
        outcome: `ok`, or the code of the error.
        facts: What the log says of the request.
        images: What the audit says of each of its images: hash, size, suspicion and the like.
        trace: Where it stands in its trace; None where traces are off.
        request_id: Given to the client and to the log.
    """

    endpoint: str
    deadline_s: float
    whole_s: float
    timings: Timings
    caller: str = ""
    policy: Policy = field(default_factory=Policy)
    slot: Slot | None = None
    held_bytes: int = 0
    passage: BreakerPermit | None = None
    outcome: str = "ok"
    facts: dict[str, Any] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    trace: Trace | None = None
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
