"""What a run of fuzzing counts, and the inputs that it keeps."""

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
NUM_SLOWEST = 5


@dataclass
class Tally:
    """Outcomes by name, the slowest inputs, memory, and what went wrong."""

    outcomes: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    num_restarts: int = 0
    rss_begin_bytes: int = 0
    rss_end_bytes: int = 0
    rss_peak_bytes: int = 0

    def count(self, outcome, seconds, name):
        self.outcomes[outcome] += 1
        heapq.heappush(self.slowest, (round(seconds, 3), name))
        if len(self.slowest) > NUM_SLOWEST:
            heapq.heappop(self.slowest)

    def keep(self, fault, content_type, body):
        """Notes a fault and keeps its input, which from then on is a test."""
        digest = hashlib.sha256(body).hexdigest()[:16]
        path = CORPUS / f"{content_type.partition(';')[0].replace('/', '_')}-{digest}"
        path.write_bytes(body)
        self.faults.append(f"{fault}: {path.name}")

    def report(self):
        growth = self.rss_end_bytes - self.rss_begin_bytes
        return {
            "inputs": self.outcomes.total(),
            "outcomes": dict(self.outcomes.most_common()),
            "faults": self.faults,
            "restarts": self.num_restarts,
            "rss_begin_mib": round(self.rss_begin_bytes / 2**20, 1),
            "rss_growth_mib": round(growth / 2**20, 1),
            "rss_peak_mib": round(self.rss_peak_bytes / 2**20, 1),
            "slowest_s": sorted(self.slowest, reverse=True),
        }


def merge(tallies):
    """The sums of several tallies; of memory, the process that grew most."""
    grown = max(tallies, key=lambda tally: tally.rss_end_bytes - tally.rss_begin_bytes)
    return Tally(
        sum((tally.outcomes for tally in tallies), Counter()),
        [fault for tally in tallies for fault in tally.faults],
        heapq.nlargest(NUM_SLOWEST, (slow for tally in tallies for slow in tally.slowest)),
        sum(tally.num_restarts for tally in tallies),
        grown.rss_begin_bytes,
        grown.rss_end_bytes,
        max(tally.rss_peak_bytes for tally in tallies),
    )


def read_rss(pid):
    """Resident memory of a process now, and the most it ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return tuple(1024 * int(values[name].split()[0]) for name in ("VmRSS", "VmHWM"))
