"""Counts the shape of the tree as a reader does: modules, who imports them, functions, words."""

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOMS = ("service", "models", "lab", "benchmarks")
# What measures a defence: the folders of the first version, and those that took over from them.
EVALUATING = (
    "evaluate", "detection", "tradeoff", "fidelity", "classification", "recognition", "reading",
    "experiments",
)  # fmt: skip
# What finds its modules by their names, or is itself run by name.
ENTRIES = {"__init__.py", "__main__.py"}
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS, MOST_COLUMNS = 400, 60, 8, 160


@dataclass(frozen=True)
class Module:
    """One module of a room."""

    path: Path
    name: str  # from the room on: service.forward.upstream

    @cached_property
    def text(self):
        return self.path.read_text()

    @cached_property
    def tree(self):
        return ast.parse(self.text)

    @property
    def room(self):
        return self.name.partition(".")[0]

    @property
    def num_lines(self):
        return len(self.text.splitlines())

    @cached_property
    def num_statements(self):
        """All statements but docstrings."""
        return sum(isinstance(node, ast.stmt) and not is_text(node) for node in ast.walk(self.tree))

    @cached_property
    def functions(self):
        kinds = ast.FunctionDef | ast.AsyncFunctionDef
        return [node for node in ast.walk(self.tree) if isinstance(node, kinds)]

    @property
    def is_declaration(self):
        """Whether there is nothing to follow: no function is longer than a few statements."""
        inner = [statements_of(function) for function in self.functions]
        return sum(inner) <= self.num_statements / 3


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def statements_of(function):
    return sum(isinstance(node, ast.stmt) and not is_text(node) for node in ast.walk(function)) - 1


def lines_of(function):
    """From `def` to the last line, docstring included; decorators are not counted."""
    return function.end_lineno - function.lineno + 1


def parameters_of(function):
    """How many it has, without `self` and `cls`."""
    args = function.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    stars = sum(star is not None for star in (args.vararg, args.kwarg))
    return len(names) - (names[:1] in (["self"], ["cls"])) + stars


def read_modules(root):
    modules = []
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules.append(Module(path, name))
    return modules


def importers_of(modules):
    """The modules that import each module, by name; anywhere in the file, types alone included."""
    known = {module.name for module in modules}
    importers = defaultdict(set)
    for module in modules:
        for node in ast.walk(module.tree):
            for target in imported_by(node):
                # `from a.b import c` names the module a.b.c, or something in a.b
                name = target.removeprefix("codefend.")
                found = name if name in known else name.rpartition(".")[0]
                if found in known and found != module.name:
                    importers[found].add(module.name)
    return importers


def imported_by(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def named_in_a_registry(modules):
    """Modules that somebody names in a string, as an import path."""
    known, named = {module.name for module in modules}, set()
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value.partition(":")[0].removeprefix("codefend.")
                if name in known and "." in name:
                    named.add(name)
    return named


def single_importer_modules(modules):
    importers, named = importers_of(modules), named_in_a_registry(modules)
    return [
        module.name
        for module in modules
        if module.path.name not in ENTRIES
        and module.name not in named
        and len(importers[module.name]) == 1
    ]


def repeated_classes(modules):
    """Public classes of one name in more than one module."""
    places = defaultdict(list)
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{module.name}:{node.lineno}")
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def readme_counts(text):
    """Words and numbers in prose and tables: without code, links' targets and pictures."""
    text = re.sub(r"```.*?```", " ", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|<[^>]+>", " ", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    without_code = re.sub(r"`[^`]*`", " ", text)
    words = re.findall(r"[A-Za-z0-9][\w'.,/%-]*", text)
    numbers = re.findall(r"(?<![\w.])\d[\d,.]*", without_code)
    return len(words), len(numbers)


def long_lines(folder):
    """Lines of Markdown that are wider than a page."""
    files = [folder / "README.md", *sorted((folder / "docs").rglob("*.md"))]
    return [
        f"{file.relative_to(folder)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if len(line) > MOST_COLUMNS
    ]


def is_evaluating(module):
    parts = module.name.split(".")
    return parts[0] == "lab" and len(parts) > 1 and parts[1] in EVALUATING


def measure(root):
    """All counts, with the names of what is above a bound."""
    modules = read_modules(root)
    own = [module for module in modules if module.path.name != "__init__.py"]
    by_room = {room: [m for m in modules if m.room == room] for room in ROOMS}
    statements = {room: sum(m.num_statements for m in by_room[room]) for room in ROOMS}
    functions = [
        (f"{m.path.relative_to(root)}:{function.lineno}:{function.name}", function)
        for m in modules
        for function in m.functions
    ]
    lengths = {name: lines_of(function) for name, function in functions}
    parameters = {name: parameters_of(function) for name, function in functions}
    single = single_importer_modules(modules)
    words, numbers = readme_counts((root / "README.md").read_text())
    wide = long_lines(root)
    longest = max(lengths, key=lengths.get)
    most = max(parameters, key=parameters.get)
    return {
        "modules but __init__": {room: sum(m.room == room for m in own) for room in ROOMS}
        | {"all": len(own)},
        "modules": {room: len(by_room[room]) for room in ROOMS} | {"all": len(modules)},
        "lines": {room: sum(m.num_lines for m in by_room[room]) for room in ROOMS},
        "modules with one importer": len(single),
        "statements": statements,
        "statements of lab, models and benchmarks": sum(
            statements[room] for room in ("lab", "models", "benchmarks")
        ),
        "statements of what evaluates": sum(m.num_statements for m in modules if is_evaluating(m)),
        "longest function": f"{lengths[longest]} ({longest})",
        "most parameters": f"{parameters[most]} ({most})",
        "README words": words,
        "README numbers": numbers,
        "wide lines in README and docs": len(wide),
        "functions over 60 lines": sorted(n for n, v in lengths.items() if v > MOST_FUNCTION_LINES),
        "functions over 8 parameters": sorted(
            f"{n} ({v})" for n, v in parameters.items() if v > MOST_PARAMETERS
        ),
        "modules over 400 lines": sorted(
            f"{m.path.relative_to(root)} ({m.num_lines}{', declarations' * m.is_declaration})"
            for m in modules
            if m.num_lines > MOST_LINES
        ),
        "repeated public classes": repeated_classes(modules),
        "one importer": single,
    }
