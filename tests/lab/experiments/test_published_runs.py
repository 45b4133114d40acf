"""Every published report has a file that makes it, and every file is of an experiment."""

import tomllib
from pathlib import Path

import pytest

from codefend.lab.cli import EXPERIMENTS
from codefend.lab.experiments.settings import read_settings

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "experiments").glob("*.toml"))
KNOWN = {experiment.name: experiment for experiment in EXPERIMENTS}


def settings_of(file):
    given = tomllib.loads(file.read_text())
    return read_settings(KNOWN[given.pop("experiment")], [], given=given, command=file.name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_says_where_its_report_goes(file):
    settings = settings_of(file)
    assert not settings.out.is_absolute()
    again = type(settings).model_validate_json(settings.model_dump_json())
    assert again.model_dump() == settings.model_dump()  # a report's meta is a file, too


def test_every_published_report_has_a_file():
    made = {ROOT / settings_of(file).out for file in FILES}
    published = ROOT / "docs" / "robustness"
    reports = [*published.rglob("report.json*"), *published.rglob("fidelity.json*")]
    assert len(reports) >= 10
    assert {report.parent for report in reports} <= made
