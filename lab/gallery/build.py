"""Composes and attacks the gallery's scenes; ``codefend-lab data gallery`` calls it."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.attacks.scenes import attack_scenes
from codefend.lab.evaluate.truth import truths
from codefend.lab.victims.victim import Victim
from codefend.lab.world.compose import World
from codefend.lab.world.scenes import Scene, scenes
from codefend.models.codec import encode_image

__all__ = ["build_gallery"]

GALLERY_SEED = 48
BATCH_SIZE = 24
PHOTO_LICENCES = {
    "gnome-backgrounds": "CC-BY-SA-3.0",
    "lomiri-wallpapers-20.04": "CC-BY-SA-4.0, CC-BY-SA-3.0 or CC-BY-4.0 by photo",
    "mate-backgrounds": "GPL-2+",
    "plasma-workspace-wallpapers": "GPL-2+",
    "ukui-wallpapers": "CC-BY-SA-3.0",
}
"""What each Debian package's copyright file says of the photos that the gallery shows."""


def build_gallery(
    world: World, victim: Victim, out: Path, *, num_scenes: int, epsilon: float, steps: int
) -> None:
    """Write ``scenes.json`` and the images of the first test scenes of the gallery's seed.

    Scenes are taken as they come: none is left out because its attack or its defence failed. Each
    is attacked by APGD on the mean margin of its caption and all its answers.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    config = AttackConfig(
        name="apgd", goal="margin", epsilon=epsilon, steps=steps, seed=GALLERY_SEED
    )
    entries = []
    for start in tqdm(range(0, num_scenes, BATCH_SIZE), desc="gallery", unit="batch"):
        num = min(BATCH_SIZE, num_scenes - start)
        batch = scenes("test", num, GALLERY_SEED, world, start=start)
        attacked = attack_scenes(
            config, victim, [scene.image for scene in batch], [truths(scene) for scene in batch]
        )
        for scene, data in zip(batch, attacked, strict=True):
            entries.append(_write(out, world, scene, data, config))
    document = json.dumps(entries, indent=1, ensure_ascii=False)
    (out / "scenes.json").write_text(document + "\n", encoding="utf-8")


def _write(
    out: Path, world: World, scene: Scene, attacked: bytes, config: AttackConfig
) -> dict[str, object]:
    clean_path = f"images/{scene.index:03d}-clean.png"
    attacked_path = f"images/{scene.index:03d}-attacked.png"
    (out / clean_path).write_bytes(encode_image(scene.image))
    (out / attacked_path).write_bytes(attacked)
    return {
        "clean": clean_path,
        "attacked": attacked_path,
        "caption": scene.captions[0],
        "questions": [{"question": q.question, "answer": q.answer} for q in scene.questions],
        "attack": {"name": config.label, "epsilon": config.epsilon, "target": None},
        "licence": _licence(world.photo_paths["test"][scene.layout.photo]),
    }


def _licence(photo: str) -> str:
    path = PurePosixPath(photo)
    package = path.parts[0]
    terms = PHOTO_LICENCES.get(package, "as supplied by the user")
    return f"background {photo}: {terms}; objects Fluent Emoji (Microsoft): MIT"
