"""Names that rows carry and other modules look for."""

from __future__ import annotations

__all__ = ["NOISE", "OURS", "UNION"]

UNION = "worst-of-all"
"""Attack of rows that count, answer by answer, the worst of several."""
OURS = ("codefend", "purifier")
"""Defences that are ours: others are compared with them."""
NOISE = "uniform_noise"
"""Attack that should do nothing."""
