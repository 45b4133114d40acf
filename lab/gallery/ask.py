"""Asks a running service every question of the gallery, as a client would, and counts."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.answers import is_match

__all__ = ["GalleryScore", "ask_gallery"]

TIMEOUT_S = 60.0


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
    entries: list[dict[str, Any]] = json.loads((gallery / "scenes.json").read_text("utf-8"))
    service = ServiceClient.connect(url, key=key, timeout_s=TIMEOUT_S)
    num_questions = num_right = 0
    latencies = []
    with service.http:
        for entry in tqdm(entries, desc="gallery", unit="scene"):
            encoded = base64.b64encode((gallery / entry[image]).read_bytes()).decode()
            for question in entry["questions"]:
                started = time.perf_counter()
                body = {"image": encoded, "question": question["question"]}
                answer = service.post("/v1/vqa", body)["answer"]
                latencies.append(time.perf_counter() - started)
                num_questions += 1
                num_right += is_match(answer, question["answer"])
    return GalleryScore(num_questions, num_right, tuple(latencies))
