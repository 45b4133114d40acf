"""What purification says of one upload, beside its pixels."""

from dataclasses import dataclass

from codefend.models.detector.calibration import is_flagged
from codefend.service.purify.engine import EngineFacts

__all__ = ["Purified"]


@dataclass(frozen=True, slots=True)
class Purified:
    """One upload that was purified.

    Attributes:
        suspicion: How much it looked attacked, in [0, 1]; None without a detector.
        cached: Whether its purified picture is a replay.
        engine: What purified it.
    """

    suspicion: float | None
    cached: bool
    engine: EngineFacts

    @property
    def flagged(self) -> bool | None:
        """Whether its suspicion is above what 1 % of clean images have; None without one."""
        return None if self.suspicion is None else is_flagged(self.suspicion)
