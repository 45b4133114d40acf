"""The shipped gallery: composed and attacked test scenes, and what a running service says of them.

``scenes.json`` lists them; it is also the format in which a folder of pictures may say what is
true of them.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.attacks.scenes import attack_scenes
from codefend.lab.errors import LabError
from codefend.lab.evaluate.data import truths
from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.answers import is_match
from codefend.lab.victims.dialogue import CAPTION_REQUEST, Dialogue
from codefend.lab.victims.victim import Victim
from codefend.lab.world.compose import World
from codefend.lab.world.scenes import Scene, scenes
from codefend.models.codec import encode_image

__all__ = ["GalleryScore", "ask_gallery", "build_gallery", "entry_truths", "gallery_entries"]

GALLERY_SEED = 48
BATCH_SIZE = 24
TIMEOUT_S = 60.0
PHOTO_LICENCES = {
    "gnome-backgrounds": "CC-BY-SA-3.0",
    "lomiri-wallpapers-20.04": "CC-BY-SA-4.0, CC-BY-SA-3.0 or CC-BY-4.0 by photo",
    "mate-backgrounds": "GPL-2+",
    "plasma-workspace-wallpapers": "GPL-2+",
    "ukui-wallpapers": "CC-BY-SA-3.0",
}
"""What each Debian package's copyright file says of the photos that the gallery shows."""


def gallery_entries(gallery: Path) -> list[dict[str, Any]]:
    """What ``scenes.json`` lists.

    Raises:
        LabError: There is no gallery.
    """
    file = gallery / "scenes.json"
    if not file.exists():
        raise LabError(f"{file} does not exist; make it with: codefend-lab data gallery")
    entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return entries


def entry_truths(entry: Mapping[str, Any]) -> list[Dialogue]:
    """What is true of a scene of the list: its caption first, then its questions' answers."""
    return [
        Dialogue(CAPTION_REQUEST, entry["caption"]),
        *(Dialogue(asked["question"], asked["answer"]) for asked in entry["questions"]),
    ]


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
        images, told = [scene.image for scene in batch], [truths(scene) for scene in batch]
        attacked = attack_scenes(config, victim, images, told)
        for scene, data in zip(batch, attacked, strict=True):
            entries.append(_write(out, world, scene, data, config))
    document = json.dumps(entries, indent=1, ensure_ascii=False)
    (out / "scenes.json").write_text(document + "\n", encoding="utf-8")


def _write(
    out: Path, world: World, scene: Scene, attacked: bytes, config: AttackConfig
) -> dict[str, object]:
    paths = {kind: f"images/{scene.index:03d}-{kind}.png" for kind in ("clean", "attacked")}
    (out / paths["clean"]).write_bytes(encode_image(scene.image))
    (out / paths["attacked"]).write_bytes(attacked)
    photo = world.photo_paths["test"][scene.layout.photo]
    terms = PHOTO_LICENCES.get(PurePosixPath(photo).parts[0], "as supplied by the user")
    return {
        **paths,
        "caption": scene.captions[0],
        "questions": [{"question": q.question, "answer": q.answer} for q in scene.questions],
        "attack": {"name": config.label, "epsilon": config.epsilon, "target": None},
        "licence": f"background {photo}: {terms}; objects Fluent Emoji (Microsoft): MIT",
    }


@dataclass(frozen=True, slots=True)
class GalleryScore:
    """What came back over the whole gallery.

    Attributes:
        num_questions: Questions asked of the attacked images.
        num_right: How many answers match the truth exactly, once normalised.
        latencies_s: Seconds of each request.
    """

    num_questions: int
    num_right: int
    latencies_s: tuple[float, ...]

    def __str__(self) -> str:
        """One line for people."""
        p50, p95, worst = (float(np.percentile(self.latencies_s, q)) for q in (50, 95, 100))
        return (
            f"{self.num_right} of {self.num_questions} right "
            f"({self.num_right / self.num_questions:.1%}); seconds a request: "
            f"p50 {p50:.2f}, p95 {p95:.2f}, slowest {worst:.2f}"
        )


def ask_gallery(gallery: Path, url: str, *, key: str = "", image: str = "attacked") -> GalleryScore:
    """Put every question about every scene to ``POST {url}/v1/vqa``, one at a time.

    Args:
        gallery: Folder of ``scenes.json``.
        url: Where the service answers.
        key: Its API key, where it wants one.
        image: ``attacked`` or ``clean``.

    Raises:
        LabError: The service cannot be reached, or answers with an error.
    """
    service = ServiceClient.connect(url, key=key, timeout_s=TIMEOUT_S)
    right: list[bool] = []
    latencies: list[float] = []
    with service.http:
        for entry in tqdm(gallery_entries(gallery), desc="gallery", unit="scene"):
            encoded = base64.b64encode((gallery / entry[image]).read_bytes()).decode()
            for question in entry["questions"]:
                started = time.perf_counter()
                body = {"image": encoded, "question": question["question"]}
                answer = service.post("/v1/vqa", body)["answer"]
                latencies.append(time.perf_counter() - started)
                right.append(is_match(answer, question["answer"]))
    return GalleryScore(len(right), sum(right), tuple(latencies))
