"""Attacked images, made once and kept as the PNG files that would be uploaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.attacks.scenes import attack_scenes
from codefend.lab.evaluate.kept import kept_images
from codefend.lab.evaluate.truth import TrueScene, scene_digest, truths
from codefend.lab.experiments.store import digest_of
from codefend.lab.progress import progress
from codefend.lab.victims.victim import Victim

__all__ = ["AttackedImages"]


@dataclass(frozen=True, slots=True)
class AttackedImages:
    """Makes and remembers attacked images of one victim.

    Attributes:
        victim: what the attacker has gradients of.
        folder: where files are kept, one folder an attack.
        batch_size: images attacked at once; part of what decides random starts.
    """

    victim: Victim
    folder: Path
    batch_size: int = 32

    def __call__(
        self,
        config: AttackConfig,
        scenes: Sequence[TrueScene],
        targets: Sequence[str] | None = None,
    ) -> list[np.ndarray]:
        """Attacked versions of the scenes, re-read from PNG; whatever is on disk is not made again.

        Args:
            config: the attack.
            scenes: what is attacked, all of one size.
            targets: for a targeted attack on the language model, the caption to head for.

        Returns:
            (H, W, 3) uint8 each, in order.
        """
        goal = "targeted" if config.targeted else "untargeted"
        label = f"{config.label}-{goal}-{round(config.epsilon * 255)}"
        images: list[np.ndarray] = []
        starts = range(0, len(scenes), self.batch_size)
        for number, start in enumerate(progress(starts, desc=label, unit="batch")):
            chunk = scenes[start : start + self.batch_size]
            wanted = list(targets[start : start + self.batch_size]) if targets else []
            key = digest_of(
                asdict(config),
                self.victim.sha256,
                str(self.victim.dtype),
                number,
                scene_digest(chunk),
                wanted,
            )
            images += self._chunk(config, chunk, wanted, self.folder / label / key, number)
        return images

    def _chunk(
        self,
        config: AttackConfig,
        scenes: Sequence[TrueScene],
        targets: list[str],
        folder: Path,
        number: int,
    ) -> list[np.ndarray]:
        def make() -> list[bytes]:
            return attack_scenes(
                replace(config, seed=1_000_003 * config.seed + number),
                self.victim,
                [scene.image for scene in scenes],
                [truths(scene) for scene in scenes],
                targets,
            )

        return kept_images(folder, len(scenes), make)
