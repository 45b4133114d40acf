"""The parts of the house style that a program can check, on every room's modules."""

import ast
import importlib
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.house.structure import (
    MOST_FUNCTION_LINES,
    MOST_LINES,
    MOST_PARAMETERS,
    lines_of,
    parameters_of,
    read_modules,
    repeated_classes,
    single_importer_modules,
)

ROOT = Path(__file__).parents[1]
READ = read_modules(ROOT)
MODULES = [module.path for module in READ]


def import_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "benchmarks" else ("codefend", *parts))


FUNCTIONS = {
    f"{module.path.relative_to(ROOT)}:{function.lineno}:{function.name}": function
    for module in READ
    for function in module.functions
}


def test_functions_are_short_as_a_reader_counts():
    """From `def` to the last line, docstring included."""
    lengths = {name: lines_of(function) for name, function in FUNCTIONS.items()}
    assert statistics.median(lengths.values()) <= 12
    assert {name for name, length in lengths.items() if length > MOST_FUNCTION_LINES} == set()


def test_functions_take_few_parameters():
    numbers = {name: parameters_of(function) for name, function in FUNCTIONS.items()}
    assert {name for name, number in numbers.items() if number > MOST_PARAMETERS} == set()


# There is nothing in them to follow.
DECLARATIONS = {
    "lab/train/settings.py",
    "service/errors.py",
    "service/settings.py",
}


def test_modules_are_small():
    long = {m.path.relative_to(ROOT).as_posix() for m in READ if m.num_lines > MOST_LINES}
    assert long <= DECLARATIONS


def test_what_may_be_long_declares():
    declaring = {m.path.relative_to(ROOT).as_posix() for m in READ if m.is_declaration}
    assert declaring >= DECLARATIONS


def test_no_public_class_has_the_name_of_another():
    assert repeated_classes(READ) == {}


def test_few_modules_have_one_importer():
    """Such a one is a unit worth a page of its own, or part of the one that imports it."""
    assert len(single_importer_modules(READ)) <= 0.25 * len(READ)


# What extras bring that the tests do without.
OPTIONAL = ("ray",)


@pytest.mark.slow
def test_a_clone_is_light():
    git = ["git", "ls-files", "-z"]
    found = subprocess.run(git, cwd=ROOT, check=False, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("no git")
    names = [name for name in found.stdout.split("\0") if name]
    sizes = {name: (ROOT / name).lstat().st_size for name in names if (ROOT / name).exists()}
    assert sum(sizes.values()) <= 50_000_000, sorted(sizes, key=sizes.get)[-10:]


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
    text = path.read_text()
    needs = next((name for name in OPTIONAL if f"import {name}\n" in text), None)
    if needs is not None and find_spec(needs) is None:
        pytest.skip(f"no {needs}")
    if "torch" not in text:
        module = importlib.import_module(import_name(path))
        assert all(hasattr(module, name) for name in names[0])


@pytest.mark.slow
def test_the_api_process_imports_no_torch():
    code = (
        "import sys, codefend.service.app, codefend.service.cli; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
