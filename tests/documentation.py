"""Writes docs/configuration.md out of the settings themselves: `python -m tests.documentation`.

`tests/test_documentation.py` says when the page has to be written anew.
"""

import inspect
import json
import re
import textwrap
from enum import Enum
from pathlib import Path
from typing import get_args

from codefend.service.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
COLUMNS = 120
MEBIBYTE = 1 << 20
UNITS = {"_s": "seconds", "_bytes": "bytes", "_px": "pixels"}

HEAD = """\
# Configuration

<!-- Written by `make docs` from the descriptions in the settings; do not edit it by hand. -->

Every setting is an environment variable, read once at the start; an empty one counts as not set.
A setting that is malformed, or contradicts another, ends the start with its name and the reason.
`codefend config` prints the effective settings, with secrets hidden, and the policy of every key.

Keys may have policies of their own: see [keys and policies](operations.md#keys-and-policies).
"""


def write():
    """Writes the page."""
    PAGE.write_text(page())


def page():
    """The whole page."""
    lines = [HEAD]
    for heading, names in groups():
        if heading:
            lines += [f"## {heading}", ""]
        lines += [entry(name) for name in names]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def groups():
    """The settings in the order of their class, below the comments that stand between them."""
    found = [("", [])]
    for line in inspect.getsource(Settings).splitlines():
        if comment := re.fullmatch(r" {4}# (.+)", line):
            found.append((comment[1][0].upper() + comment[1][1:], []))
        field = re.match(r" {4}(\w+): ", line)
        if field and field[1] in Settings.model_fields:
            found[-1][1].append(field[1])
    return [(heading, names) for heading, names in found if names]


def entry(name):
    """One setting: its name, values and default, and what it does."""
    field = Settings.model_fields[name]
    facts = [unit_of(name), values_of(field), f"default {default_of(name)}"]
    text = f"- `CODEFEND_{name.upper()}` ({', '.join(filter(None, facts))}):"
    described = textwrap.wrap(
        field.description, COLUMNS - 2, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join([text, *(f"  {line}" for line in described)])


def values_of(field):
    """The words that may be set, and the bounds of numbers."""
    kinds = [field.annotation, *get_args(field.annotation)]
    words = [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, Enum)]
    if words:
        return " or ".join(f"`{word.value}`" for word in words[0])
    bounds = {
        key: getattr(limit, key)
        for limit in field.metadata
        for key in ("ge", "gt", "le", "lt")
        if hasattr(limit, key)
    }
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{signs[key]} {bound}" for key, bound in bounds.items() if bound)


def unit_of(name):
    """The unit that the name ends with."""
    return next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")


def default_of(name):
    """The default as it would be set, or `none`."""
    default = Settings.model_fields[name].get_default()
    if default is None or default == ():
        return "none"
    if isinstance(default, tuple):
        default = ",".join(default)
    if isinstance(default, Enum):
        default = default.value
    if isinstance(default, str | Path):
        return f"`{re.sub(r'^.*/(?=models/)', '', str(default))}`"
    shown = f"`{json.dumps(default)}`"
    is_large = name.endswith("_bytes") and default >= MEBIBYTE
    return f"{shown}, {default // MEBIBYTE} MiB" if is_large else shown


if __name__ == "__main__":
    write()
