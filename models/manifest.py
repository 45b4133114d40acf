"""The list of shipped weights: what each is, how it was made, and whether its files are whole.

`codefend verify` checks it; training commands write their entry with `describe_weights`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codefend.models.packed import unpacked, visible_files

__all__ = [
    "LABORATORY_WEIGHTS",
    "MANIFEST_NAME",
    "WEIGHTS_DIRECTORY",
    "WeightEntry",
    "describe_weights",
    "read_manifest",
    "verify_weights",
    "weights_sha256",
    "write_manifest",
]

WEIGHTS_DIRECTORY = Path(__file__).with_name("weights")
MANIFEST_NAME = "manifest.json"
LABORATORY_WEIGHTS = frozenset({"base", "mllm2", "surrogate"})
"""Those that the service never loads: a wheel leaves them out, a checkout has them."""


@dataclass(frozen=True, slots=True)
class WeightEntry:
    """One directory of weights.

    Attributes:
        name: Unique name.
        path: Directory, relative to the manifest.
        sha256: Relative file path to hex digest, for each file but the model card.
        size_bytes: Sum over the files.
        licence: SPDX identifier.
        command: The command that made the weights.
        figures: What they reached, by metric name.
    """

    name: str
    path: str
    sha256: dict[str, str]
    size_bytes: int
    licence: str
    command: str
    figures: dict[str, Any] = field(default_factory=dict)


def read_manifest(directory: Path = WEIGHTS_DIRECTORY) -> list[WeightEntry]:
    """Reads `manifest.json` of a weights directory.

    Raises:
        OSError: There is no manifest.
        ValueError: The manifest is malformed.
    """
    document = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
    try:
        return [WeightEntry(**entry) for entry in document["weights"]]
    except (KeyError, TypeError) as error:
        msg = f"malformed {MANIFEST_NAME}: {error}"
        raise ValueError(msg) from error


def write_manifest(entries: list[WeightEntry], directory: Path = WEIGHTS_DIRECTORY) -> None:
    """Writes `manifest.json`, sorted by name so that its diffs are small."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    text = json.dumps({"weights": [asdict(entry) for entry in ordered]}, indent=2)
    (directory / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def describe_weights(
    name: str,
    *,
    licence: str,
    command: str,
    figures: dict[str, Any],
    directory: Path = WEIGHTS_DIRECTORY,
) -> WeightEntry:
    """Makes the entry of the weights that lie in `directory / name`.

    Raises:
        FileNotFoundError: The directory is missing or empty.
    """
    files = _files_of(directory / name)
    if not files:
        msg = f"no weights in {directory / name}"
        raise FileNotFoundError(msg)
    digests = {relative: _sha256(directory / name / relative) for relative in files}
    size_bytes = sum((directory / name / relative).stat().st_size for relative in files)
    return WeightEntry(name, name, digests, size_bytes, licence, command, figures)


def verify_weights(entry: WeightEntry, directory: Path = WEIGHTS_DIRECTORY) -> Iterator[str]:
    """Compares the files of one entry with their digests.

    Yields:
        One sentence for each file that is missing, altered or not listed; nothing when all is well.
    """
    root = directory / entry.path
    for relative, expected in entry.sha256.items():
        if not (root / relative).is_file():
            yield f"{entry.path}/{relative} is missing"
        elif _sha256(root / relative) != expected:
            yield f"{entry.path}/{relative} does not have the listed sha256"
    for relative in _files_of(root):
        if relative not in entry.sha256:
            yield f"{entry.path}/{relative} is not listed"


def weights_sha256(directory: Path) -> str:
    """Which weights a directory holds, in one hash; caches and reports name them by it.

    The sha256 of the one safetensors file below it, unpacked, hexadecimal. Where there are several,
    the sha256 of their hashes, sorted by path, one a line; where there are none, the empty string.
    """
    readable = Path(unpacked(directory))
    digests = [_sha256(path) for path in sorted(readable.rglob("*.safetensors"))]
    if len(digests) <= 1:
        return "".join(digests)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _files_of(root: Path) -> list[str]:
    # A model card (.md) may gain a sentence without the weights having changed.
    files = (path for path in visible_files(root) if path.suffix != ".md")
    return sorted(path.relative_to(root).as_posix() for path in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
