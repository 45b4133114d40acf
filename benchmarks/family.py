"""A process and all its descendants: the processor time that they have taken, and their memory."""

import os
from pathlib import Path

__all__ = ["find_family", "measure_family_cpu_s", "measure_own_cpu_s", "measure_tree_mib"]

# Fields of /proc/PID/stat after the name: see proc(5).
_PARENT, _USER_TICKS, _SYSTEM_TICKS, _DEAD_USER_TICKS, _DEAD_SYSTEM_TICKS = 1, 11, 12, 13, 14


KIBIBYTES_PER_MEBIBYTE = 1024


def find_family(pid: int) -> set[int]:
    """The process and its descendants."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _read_stat(path)
        if fields:
            parents[int(path.parent.name)] = int(fields[_PARENT])
    family = {pid}
    while True:
        children = {child for child, parent in parents.items() if parent in family} - family
        if not children:
            return family
        family |= children


def measure_family_cpu_s(pid: int) -> float:
    """Processor seconds that they took so far, with those of children that ended."""
    stats = (_read_stat(Path(f"/proc/{member}/stat")) for member in find_family(pid))
    counted = (_USER_TICKS, _SYSTEM_TICKS, _DEAD_USER_TICKS, _DEAD_SYSTEM_TICKS)
    ticks = sum(int(fields[index]) for fields in stats if fields for index in counted)
    return ticks / os.sysconf("SC_CLK_TCK")


def measure_own_cpu_s(pid: int) -> float:
    """Processor seconds that the process took so far, its descendants' not among them."""
    fields = _read_stat(Path(f"/proc/{pid}/stat"))
    ticks = sum(int(fields[index]) for index in (_USER_TICKS, _SYSTEM_TICKS)) if fields else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _read_stat(path: Path) -> list[str]:
    try:
        # The name, in brackets, may itself hold brackets and blanks.
        return path.read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:  # it has just ended
        return []


def measure_tree_mib(pid: int) -> float:
    """Sums the proportional set sizes: memory that is shared among the processes counts once."""
    return sum(_proportional_kib(member) for member in find_family(pid)) / KIBIBYTES_PER_MEBIBYTE


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
