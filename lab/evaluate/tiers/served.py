"""What a running service says of uploads, marked like the victim's own words."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from codefend.lab.attacks.pixels import decode_png
from codefend.lab.evaluate.fidelity import fidelity
from codefend.lab.evaluate.outcomes import Outcome
from codefend.lab.evaluate.truth import TrueScene
from codefend.lab.experiments.store import digest_of, write_atomically
from codefend.lab.service_client import ServedAnswer, ServiceClient
from codefend.lab.victims.generate import MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS
from codefend.models.codec import encode_image

__all__ = ["ServedInterviewer"]


@dataclass(frozen=True, slots=True)
class ServedInterviewer:
    """Asks a service about images and remembers every answer; its noise is its own.

    Attributes:
        service: who is asked.
        identity: which defence and victim it is; tells answers on disk apart.
        folder: where outcomes are kept.
        num_threads: requests under way at once.
    """

    service: ServiceClient
    identity: str
    folder: Path
    num_threads: int = 4

    def __call__(
        self, images: Sequence[np.ndarray], scenes: Sequence[TrueScene], *, repeat: int
    ) -> Outcome:
        """The outcome of the uploads; read from disk where it is known.

        Args:
            images: (H, W, 3) uint8 each.
            scenes: what is true of them.
            repeat: number of this repetition; no caller chooses the service's seed.

        Raises:
            LabError: where the service does not answer.
        """
        uploads = hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()
        asked = [[question.question for question in scene.questions] for scene in scenes]
        key = digest_of(self.identity, uploads, asked, repeat)
        path = self.folder / f"{key}.json"
        if path.exists():
            return Outcome(**json.loads(path.read_text(encoding="utf-8")))
        files = [_sent_anew(encode_image(image), repeat) for image in images]
        with ThreadPoolExecutor(self.num_threads) as pool:
            told = list(pool.map(self._interview, files, scenes))
        purified = [_pixels(replies[0].purified) for replies in told]
        shown = [pixels for pixels in purified if pixels is not None]
        references = [scene.image for scene in scenes]
        psnr_db, ssim = fidelity(shown, references) if len(shown) == len(references) else ([], [])
        outcome = Outcome(
            captions=[replies[0].text.strip() for replies in told],
            answers=[[reply.text.strip() for reply in replies[1:]] for replies in told],
            psnr_db=psnr_db,
            ssim=ssim,
        )
        write_atomically(path, json.dumps(asdict(outcome)).encode())
        return outcome

    def _interview(self, png: bytes, scene: TrueScene) -> list[ServedAnswer]:
        """The caption, then the answer to every question."""
        caption = self.service.ask(png, None, max_tokens=MAX_CAPTION_TOKENS)
        answers = [
            self.service.ask(png, question.question, max_tokens=MAX_ANSWER_TOKENS)
            for question in scene.questions
        ]
        return [caption, *answers]


def _sent_anew(png: bytes, repeat: int) -> bytes:
    """The same pixels in other bytes: a service may replay what it purified of the same bytes."""
    noted = PngInfo()
    noted.add_text("repeat", str(repeat))
    file = BytesIO()
    Image.open(BytesIO(png)).save(file, "PNG", pnginfo=noted)
    return file.getvalue()


def _pixels(url: str) -> np.ndarray | None:
    """The pixels of a ``data:`` URL; None of an empty one."""
    return decode_png(base64.b64decode(url.partition(",")[2])) if url else None
