"""Memory of a process and all its descendants, as the kernel counts it."""

from pathlib import Path

from benchmarks.family import find_family

__all__ = ["measure_tree_mib"]

KIBIBYTES_PER_MEBIBYTE = 1024


def measure_tree_mib(pid: int) -> float:
    """Sums the proportional set sizes: memory that is shared among the processes counts once."""
    return sum(_proportional_kib(member) for member in find_family(pid)) / KIBIBYTES_PER_MEBIBYTE


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
