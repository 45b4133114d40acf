"""The parts of the house style that a program can check, on every room's modules."""

import ast
import importlib
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("service", "models", "lab", "benchmarks")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def import_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "benchmarks" else ("codefend", *parts))


def lengths_of_functions():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # The lines that do something: a docstring may be as long as it must.
                first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
                name = f"{path.relative_to(ROOT)}:{node.lineno}:{node.name}"
                yield name, node.end_lineno - first.lineno + 1


def test_functions_are_short():
    lengths = dict(lengths_of_functions())
    assert statistics.median(lengths.values()) <= 12
    assert {name for name, length in lengths.items() if length > 60} == set()


# There is nothing in them to follow.
DECLARATIONS = {"service/errors.py", "service/settings.py", "service/decode/fields.py"}


def test_modules_are_small():
    long = {path for path in MODULES if len(path.read_text().splitlines()) > 350}
    assert {str(path.relative_to(ROOT)) for path in long} <= DECLARATIONS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_and_what_it_offers(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if path.name == "__init__.py":
        return
    names = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert names, "no __all__"
    if "torch" not in path.read_text():
        module = importlib.import_module(import_name(path))
        assert all(hasattr(module, name) for name in names[0])


@pytest.mark.slow
def test_the_api_process_imports_no_torch():
    code = (
        "import sys, codefend.service.app, codefend.service.cli; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
