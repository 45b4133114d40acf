"""Means and quantiles of what came in between two scrapes, as Prometheus would estimate them."""

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from benchmarks.scrape import scrape


class Server:
    """A registry behind `httpx.get`."""

    def __init__(self, monkeypatch):
        registry = CollectorRegistry()
        self.stage = Histogram("d", "D", ["stage"], buckets=(1, 2, 4), registry=registry)
        monkeypatch.setattr("httpx.get", lambda _: self)
        self._registry = registry

    def raise_for_status(self):
        return self

    @property
    def text(self):
        return generate_latest(self._registry).decode()


def test_only_what_came_in_between_counts(monkeypatch):
    server = Server(monkeypatch)
    server.stage.labels("purify").observe(100)
    server.stage.labels("decode").observe(50)
    before = scrape("")
    for seconds in (0.5, 1.5, 1.5, 3):
        server.stage.labels("purify").observe(seconds)
    seen = scrape("").since(before)
    assert seen.mean("d", stage="purify") == pytest.approx(6.5 / 4)
    assert seen.quantile("d", 0.5, stage="purify") == pytest.approx(1.5)
    assert seen.quantile("d", 1.0, stage="purify") == pytest.approx(4)
    assert seen.mean("d", stage="decode") == seen.quantile("d", 0.5, stage="decode") == 0


def test_above_the_highest_bound_it_is_that(monkeypatch):
    server = Server(monkeypatch)
    server.stage.labels("purify").observe(100)
    assert scrape("").quantile("d", 0.99, stage="purify") == 4


def test_a_missing_sample_is_an_error(monkeypatch):
    Server(monkeypatch)
    with pytest.raises(KeyError):
        scrape("").value("codefend_nothing")
