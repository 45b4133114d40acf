"""What a program can check of the documentation: that it is true to the code, and short."""

import json
import lzma
import math
import re
import shlex
import subprocess
import tomllib

import pytest
import typer

from codefend.models.purifier.strengths import STRENGTHS
from codefend.service import app, errors
from codefend.service.credentials import read_keys
from codefend.service.forward.refusals import KNOWN_CODES
from codefend.service.metrics import Metrics
from codefend.service.schemas import VqaResponse
from codefend.service.startup import find_unknown_variables
from tests.documentation import PAGE, ROOT, page

FOUND = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.split()
PAGES = [name for name in FOUND if (ROOT / name).exists()]
LONGEST_LINE = 160
WORST = "worst-of-all"
WORST_OF = {"attack": WORST}
README = (ROOT / "README.md").read_text()


def read(name):
    return (ROOT / name).read_text()


def without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text):
    """The targets within the repository."""
    prose = re.sub(r"`[^`\n]*`", "", without_code(text))
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose)


def code_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def anchors(text):
    """The anchors of a page's headings, as they are shown on the web."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_no_line_is_too_long(name):
    lines = read(name).splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > LONGEST_LINE] == []


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for target in links(read(name)):
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_every_path_that_is_documented_exists():
    rooms = "service|models|lab|tests|benchmarks|experiments|deploy|gallery"
    for name in {*PAGES} - {"CHANGELOG.md"}:
        for path in re.findall(rf"`((?:{rooms})/[\w./-]*)`", read(name)):
            assert (ROOT / path).exists(), f"{name}: {path}"


def test_the_page_of_settings_is_what_the_settings_say():
    assert PAGE.read_text() == page(), "run `make docs`"


def test_every_setting_that_is_documented_exists():
    for name in PAGES:
        named = set(re.findall(r"CODEFEND_[A-Z0-9_]*[A-Z0-9]\b(?!_)", read(name)))
        assert find_unknown_variables(named) == {}, name


def test_the_metrics_that_are_documented_are_those_that_exist():
    registered = {metric.name for metric in Metrics().registry.collect()}
    section = read("docs/operations.md").split("\n## Metrics\n")[1].split("\nAlert on")[0]
    documented = re.findall(r"`(codefend_\w+?)(?:_total|_info)?(?:\{[\w,]+\})?`", section)
    assert sorted(documented) == sorted(registered)


def all_errors(root=errors.CodefendError):
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)


def test_the_errors_that_are_documented_are_those_that_exist():
    assert app.create_app  # all of the service is imported, and so are its errors
    table = read("docs/api.md").split("\n## Errors\n")[1]
    documented = {
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d+) \| ([^|]+) \|", table, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert documented == {(error.status, error.code) for error in all_errors()}


def test_the_codes_of_upstreams_that_are_documented_are_those_that_pass():
    section = read("docs/upstreams.md").split("\n### Codes that pass\n")[1].split("\n### ")[0]
    documented = {
        code: int(status)
        for status, codes in re.findall(r"^\| (\d+) \| ([^|]+) \|", section, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert documented == {code: known.error.status for code, known in KNOWN_CODES.items()}


def test_capacity_is_what_was_measured_and_arithmetic():
    rows = json.loads(read("benchmarks/results/service-cpu.json"))["rows"]
    (measured,) = (r["value"] for r in rows if r["name"] == "megapixels_per_processor_second")
    text = read("docs/capacity.md")
    assert f"**{measured:.3f} MP**" in text
    assert f"÷ {measured:.3f} ÷ 0.7" in text
    for rate in (10, 1000):
        cores = [rate * side_px**2 / 1e6 / round(measured, 3) / 0.7 for side_px in (256, 512, 1024)]
        line = " | ".join(f"{math.ceil(each / 2):,}" for each in cores)
        assert f"| {rate:,} | {line} |" in text


def test_the_answer_that_is_documented_is_one_of_the_service():
    example = json.loads(code_blocks(read("docs/api.md"), "json")[0])
    answer = VqaResponse.model_validate(example)
    assert set(example) == set(VqaResponse.model_fields)
    assert set(example["defense"]) == set(type(answer.defense).model_fields)


def test_the_endpoints_that_are_documented_are_those_that_exist():
    paths = json.loads(read("tests/service/openapi.json"))["paths"]
    table = read("docs/api.md").split("\nKeys are sent")[0]
    found = re.findall(r"(/(?:v1/[\w/{}]+|healthz|health|readyz|metrics))`", table)
    assert set(found) == set(paths)


def test_the_keys_that_are_documented_are_a_file_of_keys(tmp_path):
    (example,) = code_blocks(read("docs/operations.md"), "toml")
    (tmp_path / "keys.toml").write_text(example)
    assert [key.name for key in read_keys(tmp_path / "keys.toml")] == ["shop", "prometheus"]


def test_every_command_of_the_laboratory_that_is_documented_exists():
    from codefend.lab.cli import app as laboratory

    commands = typer.main.get_command(laboratory).commands
    for name in PAGES:
        text = read(name).replace("\\\n", " ")
        for first, second in re.findall(r"codefend-lab ([a-z][\w-]+)(?: +([a-z][\w-]+))?", text):
            assert first in commands, f"{name}: {first}"
            group = getattr(commands[first], "commands", None)
            assert group is None or not second or second in group, f"{name}: {first} {second}"


def test_every_target_of_make_that_is_documented_exists():
    targets = set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))
    for name in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)", read(name))) <= targets, name


def test_the_readme_is_short():
    text = without_code(README)
    assert len(text.split()) <= 700
    assert len(re.findall(r"\d[\d.,]*", text)) <= 45


def test_the_readme_says_what_the_report_says():
    report = read("docs/robustness/report.md")
    sections = report.split("\n## ")
    places = {
        2: ("", "clean VQA"),
        3: ("", "worst-of-all 8/255 VQA"),
        4: ("T2: attacked", "accuracy"),
    }
    rows = re.findall(r"^\| (none|\*\*CoDefend\*\*|DiffPure|JPEG) \|(.+)\|$", README, re.M)
    assert len(rows) == 4
    names = {"**CoDefend**": "codefend"}
    for title, cells in rows:
        name = names.get(title, title.lower())
        shown = [int(cell.strip(" *")) for cell in cells.split("|")]
        assert shown == [figure(sections, *places[column], name) for column in (2, 3, 4)], name


def test_the_readme_says_of_strengths_what_their_reports_say():
    """Clean and attacked photographs, scenes attacked by T0 and by T2, decibels; each rounded."""
    photographs = rows_of("docs/robustness/photographs/strong/report.json.xz")
    scenes = rows_of("docs/robustness/strengths/report.json.xz")
    lines = re.findall(r"^\| `(\w+)` \|(.+)\|[^|]+\|$", README, re.MULTILINE)
    shown = {name: cells for name, cells in lines if name in STRENGTHS}
    assert list(shown) == list(STRENGTHS)
    for strength, cells in shown.items():
        levels = STRENGTHS[strength].levels(0.08, 1)
        of_photographs = {
            "victim": "efficientnet-lite0",
            "defence": f"purifier noise_level={levels[0]:g} num_steps={len(levels)}",
        }
        kept = of_photographs | {"tier": "clean", "metric": "agreement"}
        left = of_photographs | WORST_OF | {"tier": "t0", "metric": "accuracy", "levels": 4}
        point = f"served@{levels[0]:g}x{len(levels)}"
        of_scenes = {"defence": "purifier" if strength == "standard" else point}
        answers = of_scenes | {"metric": "accuracy", "task": "vqa"} | WORST_OF
        assert [int(cell) for cell in cells.split("|")] == [
            round(100 * value_in(photographs, **kept)),
            round(100 * value_in(photographs, **left)),
            round(100 * value_in(scenes, **answers, tier="t0")),
            round(100 * value_in(scenes, **answers, tier="t2")),
            round(value_in(scenes, **of_scenes, metric="psnr_db", task="photo", tier="clean")),
        ], strength


def rows_of(name):
    """The rows of a packed report, each with its radius in levels."""
    rows = json.loads(lzma.decompress((ROOT / name).read_bytes()))["rows"]
    return [row | {"levels": round(255 * row["epsilon"])} for row in rows]


def value_in(rows, **fields):
    """Of the only row that has these."""
    (found,) = [row for row in rows if fields.items() <= row.items()]
    return found["value"]


def figure(sections, heading, column, defence):
    """A percentage of the report, rounded."""
    section = next(text for text in sections if text.startswith(heading))
    for table in re.findall(r"(?:^\|.*\n)+", f"{section}\n", re.MULTILINE):
        heads, _, *rows = (line.strip("| ").split(" | ") for line in table.splitlines())
        if column in heads:
            place = heads.index(column)
            row = next(row for row in rows if row[0] == defence and (not heading or WORST in row))
            return round(float(row[place].partition("%")[0]))
    pytest.fail(f"no {column} in {heading or 'the first section'}")


def laboratory_options(text):
    """The options that each command of the laboratory is shown with, by its name."""
    commands = "\n".join(code_blocks(text, "sh")).replace("\\\n", " ").splitlines()
    shown = {}
    for words in map(shlex.split, commands):
        if words and words[0] == "codefend-lab":
            name = " ".join(words[1:3] if words[1] == "train" else words[1:2])
            shown[name] = {word for word in words if word.startswith("--")}
    return shown


def test_the_readme_trains_with_commands_that_are_tested():
    section = read("docs/training.md").split("\n## How the shipped")[0]
    tested, shown = laboratory_options(section), laboratory_options(README)
    assert list(shown) == ["train pairs", "train purifier", "evaluate"]
    assert all(options <= tested[name] for name, options in shown.items())


def test_the_citation_is_of_this_version():
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert f"\nversion: {version}\n" in read("CITATION.cff")
