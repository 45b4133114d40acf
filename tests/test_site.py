"""The documentation's site: built strictly, and read without a network."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]
QUIET = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
# What a browser fetches by itself; the targets of links are none.
LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\"\s>]+)"
    r"|<link[^>]*\srel=\"?(?:stylesheet|icon|preload|preconnect|modulepreload)[^>]*?\shref=\"?([^\"\s>]+)"
    r"|<link[^>]*?\shref=\"?([^\"\s>]+)\"?\srel=\"?(?:stylesheet|icon|preload|preconnect)"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([*BUILD, folder], cwd=ROOT, check=True, env=QUIET)
    return folder


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        found = ["".join(groups) for groups in LOADED.findall(page.read_text())]
        assert found
        for target in found:
            assert not re.match(r"(?:[a-z]+:)?//", target), f"{page}: {target}"
            file = target.partition("?")[0].partition("#")[0]
            where = site / file.lstrip("/") if file.startswith("/") else page.parent / file
            assert where.exists(), f"{page}: {target}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", sheet.read_text()), sheet


def test_formulas_are_set_and_pages_of_the_repository_are_there(site):
    concepts = (site / "concepts.html").read_text()
    assert concepts.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"') >= 8
    assert "```" not in concepts
    assert "$<code>" not in concepts
    for name in ("index", "repository/CONTRIBUTING", "repository/CHANGELOG", "repository/SECURITY"):
        assert (site / f"{name}.html").exists()


def test_every_endpoint_is_on_its_page(site):
    paths = json.loads((ROOT / "tests/service/openapi.json").read_text())["paths"]
    shown = (site / "openapi.html").read_text()
    for path, methods in paths.items():
        for method in methods:
            assert f"{method.upper()} {path}" in shown


@pytest.mark.parametrize("line", ["[gone](nowhere.md)", "[gone](operations.md#nowhere)"])
def test_a_link_that_leads_nowhere_ends_the_build(line, tmp_path):
    for entry in ROOT.iterdir():
        if entry.name not in {"docs", ".git", ".venv", "work", "build"}:
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "docs").mkdir()
    for entry in (ROOT / "docs").iterdir():
        if entry.name not in {"glossary.md", "site.py"}:
            (tmp_path / "docs" / entry.name).symlink_to(entry)
    hook = (ROOT / "docs/site.py").read_text()
    (tmp_path / "docs/site.py").write_text(hook)
    glossary = (ROOT / "docs/glossary.md").read_text()
    (tmp_path / "docs/glossary.md").write_text(f"{glossary}\n{line}\n")
    command = [*BUILD, tmp_path / "built"]
    done = subprocess.run(
        command, cwd=tmp_path, env=QUIET, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "nowhere" in done.stdout + done.stderr
