"""What the playground does, without its page: attacks that can be watched, and answers beside them.

A `Studio` holds the models. It attacks a `CleanPicture` in a thread; a `LiveAttack` counts its
steps and can end it. The victim is asked about the picture clean, attacked and purified at each
strength, as served.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from codefend.lab.attacks.adaptive import AdaptiveConfig, attack_through
from codefend.lab.attacks.pixels import decode_png
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.attacks.scenes import attack_scenes
from codefend.lab.baselines.defence import Defence, defend
from codefend.lab.baselines.named import defence_named
from codefend.lab.baselines.purifiers import load_purifier
from codefend.lab.errors import LabError
from codefend.lab.victims.dialogue import CAPTION_REQUEST, Dialogue
from codefend.lab.victims.generate import generate
from codefend.lab.victims.victim import Victim, load_victim
from codefend.models.prompts.templates import Task, Template, read_templates
from codefend.models.purifier.purifier import Purifier
from codefend.models.purifier.strengths import Strength

__all__ = ["Answered", "CleanPicture", "LiveAttack", "Studio", "Wish", "read_photo"]

MAX_ANSWER_TOKENS = 32
NUM_DRAWS = 4
"""Of the defence's noise, averaged at each step of an attacker who knows it."""


def read_photo(path: Path, longest_side_px: int) -> np.ndarray:
    """A picture file as (H, W, 3) uint8: upright, transparency on white, scaled down if larger.

    Raises:
        LabError: It is no picture that can be read.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LabError(
            f"{path.name} cannot be read as a picture. Take a JPEG, PNG or WebP."
        ) from error
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    paper.thumbnail((longest_side_px, longest_side_px), Image.Resampling.LANCZOS)
    return np.asarray(paper.convert("RGB"))


@dataclass(frozen=True, slots=True)
class CleanPicture:
    """A picture that is attacked, and what is true of it.

    Attributes:
        pixels: (H, W, 3) uint8.
        truths: what an attack leads away from, the caption first; empty where nothing is known:
            then it leads away from what the victim says of the clean picture.
    """

    pixels: np.ndarray
    truths: tuple[Dialogue, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """What an attacker wants.

    Attributes:
        levels: most that any value of a pixel changes, of 255.
        steps: gradient steps.
        attack: `apgd` or `pgd`.
        target: what the victim shall say when asked to describe the picture; empty: away from the
            truth.
        through: strength of the defence that gradients go through as well; None where the attacker
            does not know the defence.
    """

    levels: int
    steps: int
    attack: str = "apgd"
    target: str = ""
    through: Strength | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be had.

        Raises:
            LabError: A target, of an attacker who knows the defence.
        """
        if self.target and self.through is not None:
            msg = "An attacker who knows the defence leads away from the truth: leave the target."
            raise LabError(msg)

    def config(self, seed: int) -> AttackConfig:
        """The attack, as reports identify it."""
        return AttackConfig(
            name=self.attack,
            epsilon=self.levels / 255,
            steps=self.steps,
            goal="language" if self.target else "margin",
            targeted=bool(self.target),
            seed=seed,
        )


class LiveAttack:
    """An attack in a thread of its own: how far it is, its end, and a way to end it.

    Attributes:
        num_done: How often the objective was asked; the start counts too.
    """

    def __init__(self, attack: Callable[[Callable[[], None]], bytes]) -> None:
        """Starts it.

        Args:
            attack: Calls what it is given at each step, and gives a PNG file.
        """
        self.num_done = 0
        self._is_cancelled = threading.Event()
        with_one = ThreadPoolExecutor(1, thread_name_prefix="attack")
        self._future: Future[bytes] = with_one.submit(attack, self._step)
        with_one.shutdown(wait=False)

    def _step(self) -> None:
        self.num_done += 1
        if self._is_cancelled.is_set():
            raise CancelledError

    def cancel(self) -> None:
        """Ends it at its next step."""
        self._is_cancelled.set()

    def wait(self, seconds: float) -> bool:
        """Waits so long at most; whether it has ended."""
        return bool(wait([self._future], seconds).done)

    def result(self) -> np.ndarray:
        """The attacked picture, (H, W, 3) uint8, as it would be uploaded.

        Raises:
            CancelledError: It was cancelled.
        """
        return decode_png(self._future.result())


@dataclass(frozen=True, slots=True)
class Answered:
    """A picture, and what the victim says of it.

    Attributes:
        name: What was done with it.
        pixels: (H, W, 3) uint8.
        answers: One a question.
    """

    name: str
    pixels: np.ndarray
    answers: tuple[str, ...]


class Studio:
    """The models of the playground."""

    def __init__(
        self, victim: Victim, purifier: Purifier, templates: Mapping[Task, Template]
    ) -> None:
        """Takes who is asked, what purifies, and what is put around questions."""
        self._victim = victim
        self._purifier = purifier
        self._templates = templates
        self._seeds = np.random.default_rng()

    @classmethod
    def load(cls, victim: str, purifier: Path, prompts: Path) -> Studio:
        """Loads all of it, onto a GPU where there is one.

        Raises:
            LabError: Something cannot be loaded.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            templates = read_templates(prompts)
        except (OSError, ValueError) as error:
            raise LabError(f"{prompts} holds no prompt templates: {error}") from error
        pipeline, _ = load_purifier(purifier, device=device)
        return cls(load_victim(victim, device=device), pipeline, templates)

    def _new_seed(self) -> int:
        return int(self._seeds.integers(2**31))

    @property
    def prompt(self) -> str | None:
        """What the template says beside a question; None where it is plain and says nothing."""
        return self._templates[Task.VQA].instructions or None

    @property
    def strengths(self) -> tuple[Strength, ...]:
        """Those that the purifier has."""
        return self._purifier.strengths

    def attack(self, original: CleanPicture, wish: Wish) -> LiveAttack:
        """Starts to attack a picture."""
        config = wish.config(self._new_seed())

        def run(on_step: Callable[[], None]) -> bytes:
            truths = [original.truths or self._own_words(original.pixels)]
            images = [original.pixels]
            if wish.through is None:
                (found,) = attack_scenes(
                    config, self._victim, images, truths, [wish.target], on_step=on_step
                )
                return found
            defence = self._defence(wish.through)
            gradient = defence.gradients[0]
            adaptive = AdaptiveConfig(search=config, gradient=gradient, num_draws=NUM_DRAWS)
            forward = defence.gradient_paths[gradient]
            (found,) = attack_through(
                adaptive, self._victim, forward, images, truths, on_step=on_step
            )
            return found

        return LiveAttack(run)

    def _own_words(self, pixels: np.ndarray) -> tuple[Dialogue, ...]:
        ((said,),) = generate(
            self._victim, [pixels], [[CAPTION_REQUEST]], max_new_tokens=MAX_ANSWER_TOKENS
        )
        return (Dialogue(CAPTION_REQUEST, said),)

    def _defence(self, strength: Strength) -> Defence:
        """As served: the noise and the steps of a strength."""
        return defence_named(f"purifier:{strength}", {"purifier": (self._purifier, "")})

    def purify(self, pixels: np.ndarray, strength: Strength) -> np.ndarray:
        """A picture purified, with fresh noise.

        Args:
            pixels: (H, W, 3) uint8.
            strength: One of `strengths`.
        """
        return defend(self._defence(strength), [pixels], seed=self._new_seed())[0]

    def compare(
        self, clean: np.ndarray, attacked: np.ndarray | None, question: str, *, with_prompt: bool
    ) -> list[Answered]:
        """The picture clean, attacked and purified at each strength, and what is said of each.

        The prompt goes to purified pictures alone, as it is part of the defence.

        Args:
            clean: (H, W, 3) uint8.
            attacked: Of the same size; None where it was not attacked.
            question: Asked beside the description.
            with_prompt: Whether the template is put around what is asked.
        """
        plain = [CAPTION_REQUEST, question]
        defended = [
            self._templates[task].fill(text)
            for task, text in zip((Task.CAPTION, Task.VQA), plain, strict=True)
        ]
        pictures = {"clean": clean}
        if attacked is not None:
            pictures["attacked"] = attacked
        uploaded = clean if attacked is None else attacked
        purified = {
            f"purified, {strength}": self.purify(uploaded, strength) for strength in self.strengths
        }
        asked = [plain] * len(pictures) + [defended if with_prompt else plain] * len(purified)
        return self._ask(pictures | purified, asked)

    def _ask(
        self, pictures: Mapping[str, np.ndarray], prompts: Sequence[Sequence[str]]
    ) -> list[Answered]:
        said = generate(
            self._victim, list(pictures.values()), prompts, max_new_tokens=MAX_ANSWER_TOKENS
        )
        return [
            Answered(name, pixels, tuple(answers))
            for (name, pixels), answers in zip(pictures.items(), said, strict=True)
        ]
