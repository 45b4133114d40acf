"""What a running service says of itself at /metrics."""

import itertools
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Scrape", "scrape"]


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples at one time, by name and labels."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float:
        """One sample.

        Raises:
            KeyError: There is none.
        """
        return self.samples[name, frozenset(labels.items())]

    def since(self, before: "Scrape") -> "Scrape":
        """What came in between: counters, and histograms with them, less what they were."""
        counted = {key: value - before.samples.get(key, 0.0) for key, value in self.samples.items()}
        return Scrape(counted)

    def mean(self, histogram: str, **labels: str) -> float:
        """Of what a histogram has seen; 0 where that is nothing."""
        count = self.value(f"{histogram}_count", **labels)
        return self.value(f"{histogram}_sum", **labels) / count if count else 0.0

    def quantile(self, histogram: str, share: float, **labels: str) -> float:
        """A quantile, linear between the bounds of a bucket, as Prometheus estimates it.

        Above the highest bound it is that bound; 0 where nothing was seen.
        """
        wanted = {*labels.items()}
        buckets = sorted(
            (float(dict(own)["le"]), value)
            for (name, own), value in self.samples.items()
            if name == f"{histogram}_bucket" and wanted <= own
        )
        rank = share * buckets[-1][1]
        for (low, below), (high, upto) in itertools.pairwise([(0.0, 0.0), *buckets]):
            if rank and upto >= rank:
                is_open = high == float("inf")
                return low if is_open else low + (high - low) * (rank - below) / (upto - below)
        return 0.0


def scrape(url: str) -> Scrape:
    """Reads them.

    Raises:
        httpx.HTTPError: Nobody answers.
    """
    text = httpx.get(f"{url}/metrics").raise_for_status().text
    return Scrape(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )
