"""What measures the house counts as it says it does."""

import ast
import json

from tests.house import normalising
from tests.house.recording import differences
from tests.house.structure import (
    importers_of,
    lines_of,
    parameters_of,
    read_modules,
    readme_counts,
    repeated_classes,
    single_importer_modules,
)

FUNCTION = '''
@decorated
def measure(self, first, /, second, *rest, third=1, **more):
    """Says
    something."""
    return first
'''
FILES = {
    "service/__init__.py": "",
    "service/app.py": "from codefend.service import parts\nclass Shared: ...\nclass _Own: ...",
    "service/parts.py": "from codefend.models.net import Net",
    "service/cli.py": "LOADER = 'codefend.service.engine:load'\nimport codefend.service.app",
    "service/engine.py": "from codefend.models import net",
    "models/__init__.py": "",
    "models/net.py": "class Net: ...\nclass Shared: ...\nclass _Own: ...",
}


def tree(folder):
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return read_modules(folder)


def test_a_function_is_counted_from_def_to_its_last_line_with_all_its_parameters():
    function = ast.parse(FUNCTION).body[0]
    assert lines_of(function) == 4
    assert parameters_of(function) == 5


def test_importers_are_counted_by_module(tmp_path):
    importers = importers_of(tree(tmp_path))
    assert importers["models.net"] == {"service.parts", "service.engine"}
    assert importers["service.parts"] == {"service.app"}


def test_what_a_registry_names_is_no_module_of_one_importer(tmp_path):
    assert single_importer_modules(tree(tmp_path)) == ["service.app", "service.parts"]


def test_public_classes_of_one_name_are_found(tmp_path):
    assert list(repeated_classes(tree(tmp_path))) == ["Shared"]


def test_words_and_numbers_are_those_of_prose_and_tables():
    text = "# One\n\nTwo 3 [four](http://a/5) `6`\n\n```\nseven 8\n```\n\n| 9,000 | 1.5 % |\n"
    assert readme_counts(text) == (7, 3)


def test_what_is_chance_is_hidden_and_the_rest_is_not():
    line = {
        "time": "2026-01-01T00:00:00Z", "level": "info", "logger": "codefend.service.a.b",
        "message": "request", "request_id": "f00", "status": 200,
        "timings_ms": {"total": 1.5, "admit": 0.2},
    }  # fmt: skip
    shown = json.loads(normalising.log_line(json.dumps(line)))
    assert shown == {
        "time": "<given>", "level": "info", "logger": "codefend.service", "message": "request",
        "request_id": "<given>", "status": 200, "timings_ms": {"admit": "<ms>", "total": "<ms>"},
    }  # fmt: skip
    assert normalising.log_line(json.dumps(line | {"endpoint": "/readyz"})) is None
    url = "data:image/png;base64," + "A" * 100
    body = normalising.body(f'{{"total": 1.25e-3, "x": 1.25, "url": "{url}"}}'.encode())
    assert '"total": <ms>, "x": 1.25' in body
    assert "<100 bytes, sha256 " in body
    other = normalising.body(f'{{"url": "{url}B"}}'.encode())
    assert other not in body


def test_every_difference_is_said():
    before = {"a": {"status": 200, "log": ["x", "y"]}, "gone": 1}
    after = {"a": {"status": 404, "log": ["x", "z"]}, "new": 2}
    assert list(differences(before, before)) == []
    assert list(differences(before, after)) == [
        ("a / status", 200, 404),
        ("a / log[1]", "y", "z"),
        ("gone", 1, None),
        ("new", None, 2),
    ]
