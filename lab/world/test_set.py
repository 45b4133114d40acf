"""The fixed test set: the scenes that every published report is about, written out and hashed.

Pixels are not tracked: they follow from the world file, and hashes say whether they came out the
same. Called by ``codefend-lab data test-set``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.world.compose import World
from codefend.lab.world.scenes import Scene, scenes
from codefend.models.codec import encode_image

__all__ = ["HASHES", "NUM_SCENES", "VERSION", "check_test_set", "write_test_set"]

VERSION = "1"
"""Another number where what follows from the same packages would be other scenes."""
HASHES = Path(__file__).with_name("test_set.sha256")
"""The first 64 bits of each scene's sha256, in order: of its pixels and its truths."""
NUM_SCENES = 512
_SEED, _BATCH, _DIGITS = 0, 32, 16


def write_test_set(world: World, out: Path, num_scenes: int = NUM_SCENES) -> None:
    """Writes ``scenes.json``, its hashes, and a PNG of each scene of the test split.

    Args:
        world: What scenes are composed of.
        out: Folder; what is there of the same names is replaced.
        num_scenes: The first so many.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for start in range(0, num_scenes, _BATCH):
        num = min(_BATCH, num_scenes - start)
        for scene in scenes("test", num, _SEED, world, start=start):
            entry = _entry(scene)
            (out / entry["image"]).write_bytes(encode_image(scene.image))
            entries.append(entry)
    document = {"version": VERSION, "scenes": entries}
    (out / "scenes.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    digests = [_digest(out, entry) for entry in entries]
    (out / HASHES.name).write_text("".join(f"{digest}\n" for digest in digests), encoding="ascii")


def check_test_set(folder: Path, hashes: Path = HASHES) -> Iterator[str]:
    """Compares a written test set, pixels and truths, with the hashes of this version.

    Yields:
        One sentence for each scene that differs, or for what is missing; nothing when all is well.

    Raises:
        LabError: There is no test set in the folder.
    """
    try:
        document = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"no test set in {folder} ({error}): codefend-lab data test-set --out {folder}"
        raise LabError(msg) from error
    if document["version"] != VERSION:
        yield f"it is of version {document['version']}, and this is version {VERSION}"
        return
    expected = hashes.read_text(encoding="ascii").split()
    if len(document["scenes"]) != len(expected):
        yield f"it has {len(document['scenes'])} scenes, not {len(expected)}"
    for entry, digest in zip(document["scenes"], expected, strict=False):
        try:
            found = _digest(folder, entry)
        except OSError as error:
            yield f"{entry['image']} cannot be read: {error}"
            continue
        if found != digest:
            yield f"{entry['image']} is another picture, or other truths are told of it"


def _entry(scene: Scene) -> dict[str, Any]:
    return {
        "image": f"images/{scene.index:03d}.png",
        "captions": list(scene.captions),
        "objects": list(scene.objects),
        "questions": [{"question": q.question, "answer": q.answer} for q in scene.questions],
    }


def _digest(folder: Path, entry: dict[str, Any]) -> str:
    """Of pixels, not of the file: encoders differ."""
    with Image.open(folder / entry["image"]) as image:
        pixels = np.asarray(image.convert("RGB"))
    truths = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    told = f"{truths}\n{pixels.shape[1]}x{pixels.shape[0]}\n".encode()
    return hashlib.sha256(told + pixels.tobytes()).hexdigest()[:_DIGITS]
