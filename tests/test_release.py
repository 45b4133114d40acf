"""What a release consists of beside the code: its workflow, its forms, its licences."""

import json
import re
from pathlib import Path

import pytest
import yaml

from codefend.models.manifest import read_manifest

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
LICENCES = (ROOT / "docs" / "licences.md").read_text()


def test_the_workflow_runs_targets_of_make_and_nothing_else():
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = {command.removeprefix("make ") for command in commands}
    assert called <= targets
    own = (ROOT / ".ci/run").read_text().rpartition("make ")[2].split()
    assert set(own) <= called, "what every change must pass is run in public too"


@pytest.mark.parametrize("form", [form for form in FORMS if form.stem != "config"])
def test_a_form_has_what_it_needs_to_be_shown(form):
    read = yaml.safe_load(form.read_text())
    assert read["name"]
    assert read["description"]
    fields = [field for field in read["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) > 0


def test_whatever_is_shipped_has_its_licence_on_the_page():
    for entry in read_manifest():
        assert re.search(
            rf"^\| `models/weights/{entry.name}` \| {entry.licence} \|", LICENCES, re.M
        )
    scenes = json.loads((ROOT / "gallery/scenes.json").read_text())
    for scene in scenes:
        photo, licence = re.fullmatch(
            r"background ([\w.-]+)/\S+: ([\w.+-]+); objects .*: MIT", scene["licence"]
        ).groups()
        assert re.search(rf"^\| `{photo}` \|.*{re.escape(licence)}", LICENCES, re.M), photo
