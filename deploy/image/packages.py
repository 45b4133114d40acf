"""Prints what an image installs, read from pyproject.toml: with the stack of torch, or without.

Run while the image is built: `python packages.py [--without-torch] EXTRA...`.
"""

import re
import sys
import tomllib
from pathlib import Path

# What nothing but torch's own code imports. An image without them serves a purifier that was
# converted for OpenVINO, in front of a model elsewhere.
TORCH_STACK = {"torch", "diffusers", "transformers", "accelerate", "peft"}


def requirements(pyproject: Path, extras: list[str], *, with_torch: bool) -> list[str]:
    """The requirements of an image, as pip takes them.

    Args:
        pyproject: The project's own file.
        extras: Its optional parts that the image brings.
        with_torch: Whether the stack of torch is among them.

    Raises:
        KeyError: The project has no such extra.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found = list(project["dependencies"])
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return [row for row in found if with_torch or name_of(row) not in TORCH_STACK]


def name_of(requirement: str) -> str:
    """The package that a requirement names."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    if match is None:
        raise ValueError(f"no requirement: {requirement!r}")
    return match[0].lower()


if __name__ == "__main__":
    asked = sys.argv[1:]
    names = [argument for argument in asked if argument != "--without-torch"]
    for line in requirements(
        Path("pyproject.toml"), names, with_torch="--without-torch" not in asked
    ):
        sys.stdout.write(line + "\n")
