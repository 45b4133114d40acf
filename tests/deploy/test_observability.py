"""The dashboard and the alerts ask for what the service tells, and for nothing else."""

import re
import subprocess

import pytest
import yaml
from prometheus_client import CollectorRegistry

from codefend.service.metrics import BYPASS_REASONS, STABLE, Metrics
from tests.deploy.observability import HERE, PROMETHEUS, RULES, alerts, panels
from tests.test_documentation import all_errors, anchors, read

SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_info")
SELECTOR = re.compile(r"(codefend_\w+|up)(?:\{([^}]*)\})?")
# What Prometheus adds to every series, and a histogram to its buckets.
ADDED = {"instance", "job", "le"}
EXPRESSIONS = [rule["expr"] for rule in alerts()] + [
    e for found in panels().values() for e in found
]


def labels_by_name():
    """The labels of every series that the service can tell, by the name that is asked for."""
    found = {"up": set(), "codefend_process_memory_bytes": {"kind"}}
    for metric in vars(Metrics()).values():
        if isinstance(metric, CollectorRegistry) or not hasattr(metric, "describe"):
            continue
        for family in metric.describe():
            labels = set(metric._labelnames)
            endings = {
                "counter": ["_total"],
                "histogram": ["_bucket", "_sum", "_count"],
                "info": ["_info"],
            }
            for ending in endings.get(family.type, [""]):
                found[family.name + ending] = labels | ({"version"} if ending == "_info" else set())
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_series_that_is_asked_for_exists_with_its_labels(expression):
    known = labels_by_name()
    asked = SELECTOR.findall(expression)
    assert asked
    for name, matchers in asked:
        assert name in known, name
        labels = set(re.findall(r"(\w+)\s*[=!]", matchers))
        assert labels <= known[name] | ADDED, (name, labels)
    grouped = re.findall(r"(?:by|ignoring)\s*\(([^)]*)\)", expression)
    named = {label.strip() for group in grouped for label in group.split(",")}
    assert named <= ADDED.union(*(known[name] for name, _ in asked))


def test_the_values_that_alerts_wait_for_can_come():
    codes = {error.code for error in all_errors()}
    text = RULES.read_text()
    waited = {
        value
        for matcher in re.findall(r'(?:outcome|codefend_rejected_total\{reason)=~?"([^"]+)"', text)
        for value in matcher.split("|")
    }
    assert waited
    assert waited <= codes
    bypasses = re.findall(r'codefend_bypass_total\{reason=~?"([^"]+)"', text)
    assert {value for found in bypasses for value in found.split("|")} == set(BYPASS_REASONS)


def test_the_stable_metrics_are_there_and_documented():
    known = labels_by_name()
    section = read("docs/operations.md").split("\n### Stable metrics\n")[1].split("\n#")[0]
    documented = dict(re.findall(r"`(codefend_\w+)(?:\{([\w,]+)\})?`", section))
    assert documented == {name: ",".join(labels) for name, labels in STABLE.items()}
    for name, labels in STABLE.items():
        asked = name if name in known else name + "_bucket"
        assert known[asked] == set(labels)


def test_every_alert_has_its_page_and_every_page_its_alert():
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    page = read("docs/runbooks.md")
    assert re.findall(r"^## (Codefend\w+)$", page, re.MULTILINE) == names
    for rule in alerts():
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert path == "docs/runbooks.md"
        assert anchor in anchors(page)
        assert anchor == rule["alert"].lower()
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


@pytest.mark.parametrize("heading", ["**It means.**", "**Look at.**", "**Do.**"])
def test_every_page_says_what_it_means_and_what_to_do(heading):
    sections = re.split(r"^## Codefend\w+$", read("docs/runbooks.md"), flags=re.MULTILINE)[1:]
    assert all(section.count(heading) == 1 for section in sections)


def test_grafana_finds_what_it_is_given():
    folder = HERE / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards/codefend.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert source["uid"] == "prometheus"
    board = (HERE / "grafana/dashboards/codefend.json").read_text()
    assert set(re.findall(r'"uid": "(\w+)"', board)) == {"prometheus", "codefend"}


def test_the_collector_uses_what_it_declares():
    config = yaml.safe_load((HERE / "otel-collector.yml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus")
def test_prometheus_takes_the_rules():
    command = ["promtool", "check", "config", HERE / "prometheus.yml"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
