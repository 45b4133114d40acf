"""Memory of a process and all its descendants, as the kernel counts it."""

from pathlib import Path

__all__ = ["measure_tree_mib"]

KIBIBYTES_PER_MEBIBYTE = 1024


def measure_tree_mib(pid: int) -> float:
    """Sums the proportional set sizes: memory that is shared among the processes counts once."""
    parents = {
        int(path.parent.name): _parent_of(path) for path in Path("/proc").glob("[0-9]*/stat")
    }
    family = {pid}
    while True:
        children = {child for child, parent in parents.items() if parent in family} - family
        if not children:
            return sum(_proportional_kib(member) for member in family) / KIBIBYTES_PER_MEBIBYTE
        family |= children


def _parent_of(stat: Path) -> int | None:
    try:
        # The name, in brackets, may itself hold brackets and blanks.
        return int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return None


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
