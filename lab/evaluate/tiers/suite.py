"""The attack suite against the undefended model: which variants are run, and their uploads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from codefend.lab.attacks.registry import ATTACKS, AttackConfig, Family, Goal
from codefend.lab.attacks.scenes import attack_uploads
from codefend.lab.errors import LabError
from codefend.lab.evaluate.kept import kept_images
from codefend.lab.evaluate.truth import TrueScene, scene_digest, truths
from codefend.lab.experiments.store import digest_of, write_atomically
from codefend.lab.progress import progress
from codefend.lab.victims.victim import Victim

__all__ = ["VARIANTS", "Suite", "Variant", "variants_named"]

_BATCH_SIZE = 32
_PROMPTS = "prompts.json"


@dataclass(frozen=True, slots=True)
class Variant:
    """One attack of the suite, as it is run here.

    Attributes:
        name: of the attack.
        goal: what it moves.
        is_targeted: whether it heads for another scene's image.
    """

    name: str
    goal: Goal = "margin"
    is_targeted: bool = False

    @property
    def is_written(self) -> bool:
        """Whether it writes words on images."""
        return ATTACKS[self.name].family is Family.TYPOGRAPHIC

    @property
    def label(self) -> str:
        """What ``--families`` calls it."""
        towards = "-towards" if self.is_targeted else ""
        return f"{self.name}-{self.goal}{towards}" if self.goal != "margin" else self.name

    def config(self, epsilon: float, steps: int, seed: int) -> AttackConfig:
        """The attack; where no l-infinity ball bounds it, by what its own class states."""
        return AttackConfig(
            name=self.name,
            epsilon=epsilon if ATTACKS[self.name].is_ball else 1.0,
            steps=steps,
            goal=self.goal,
            targeted=self.is_targeted,
            seed=seed,
        )


VARIANTS = (
    Variant("pgd", "encoder"),
    Variant("pgd", "encoder", is_targeted=True),
    Variant("pgd", "prototype"),
    Variant("pgd", "matching"),
    *map(
        Variant,
        (
            *("m_attack", "ensemble", "universal", "low_frequency", "joint"),
            *("patch", "patch_corner", "perceptual", "spatial", "typographic", "figstep"),
        ),
    ),
)


def variants_named(names: str) -> tuple[Variant, ...]:
    """Those of ``--families``: ``all``, ``none``, or comma-separated labels.

    Raises:
        LabError: for an unknown label.
    """
    known = {variant.label: variant for variant in VARIANTS}
    if names in {"all", "none"}:
        return VARIANTS if names == "all" else ()
    unknown = set(names.split(",")) - set(known)
    if unknown:
        raise LabError(f"--families takes all, none, or names from {', '.join(known)}")
    return tuple(known[name] for name in names.split(","))


@dataclass(frozen=True, slots=True)
class Suite:
    """Makes and remembers the uploads of every attack by name.

    Attributes:
        attacker: whose gradients are used.
        surrogates: further models of the ensemble's attacker.
        folder: where files are kept, one folder an attack.
    """

    attacker: Victim
    surrogates: Sequence[Victim]
    folder: Path

    def __call__(
        self, config: AttackConfig, scenes: Sequence[TrueScene]
    ) -> tuple[list[np.ndarray], list[list[str]]]:
        """Attacked images re-read from PNG, and each image's prompts as the attacker words them.

        Args:
            config: the attack; a targeted one heads for the image of a scene further on.
            scenes: what is attacked, all of one size.

        Returns:
            (H, W, 3) uint8 each, and the caption's prompt, then each question's.
        """
        # One perturbation for all images is learned on half of them: it needs them at once.
        size = len(scenes) if config.name == "universal" else _BATCH_SIZE
        images: list[np.ndarray] = []
        wordings: list[list[str]] = []
        starts = range(0, len(scenes), size)
        for number, start in enumerate(progress(starts, desc=config.label)):
            chunk = scenes[start : start + size]
            following = [scenes[(start + size + i) % len(scenes)].image for i in range(len(chunk))]
            folder = self._folder(config, chunk, number)
            images += kept_images(
                folder, len(chunk), partial(self._make, config, chunk, following, number, folder)
            )
            wordings += json.loads((folder / _PROMPTS).read_text(encoding="utf-8"))
        return images, wordings

    def _folder(self, config: AttackConfig, scenes: Sequence[TrueScene], number: int) -> Path:
        key = digest_of(
            asdict(config),
            self.attacker.sha256,
            str(self.attacker.dtype),
            [surrogate.sha256 for surrogate in self._joined(config)],
            number,
            scene_digest(scenes),
        )
        towards = "-towards" if config.targeted else ""
        return self.folder / f"suite-{config.label}{towards}" / key

    def _joined(self, config: AttackConfig) -> Sequence[Victim]:
        return self.surrogates if config.name == "ensemble" else ()

    def _make(
        self,
        config: AttackConfig,
        scenes: Sequence[TrueScene],
        following: Sequence[np.ndarray],
        number: int,
        folder: Path,
    ) -> list[bytes]:
        uploads = attack_uploads(
            replace(config, seed=1_000_003 * config.seed + number),
            self.attacker,
            [scene.image for scene in scenes],
            [truths(scene) for scene in scenes],
            target_images=following,
            surrogates=self._joined(config),
        )
        prompts = [upload.prompts for upload in uploads]
        write_atomically(folder / _PROMPTS, json.dumps(prompts).encode())
        return [upload.image for upload in uploads]
