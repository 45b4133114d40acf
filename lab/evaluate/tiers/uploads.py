"""What is uploaded in each tier: clean, noised or attacked images, made once, re-read from PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import gcd

import numpy as np

from codefend.lab.attacks.adaptive import AdaptiveConfig, attack_through
from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.registry import AttackConfig, Goal
from codefend.lab.baselines.defence import Forward
from codefend.lab.evaluate.attacked import AttackedImages
from codefend.lab.evaluate.checks import CURVE_SUFFIX, NOISE
from codefend.lab.evaluate.kept import are_kept, kept_images
from codefend.lab.evaluate.marks import Marks
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.tiers.bench import Bench
from codefend.lab.evaluate.truth import TrueScene, scene_digest
from codefend.lab.experiments.report import Threat
from codefend.lab.experiments.store import digest_of
from codefend.lab.labels import UNION
from codefend.lab.progress import progress
from codefend.lab.victims.dialogue import Dialogue

__all__ = ["Uploader", "Uploads", "union_threat"]


@dataclass(frozen=True, slots=True)
class Uploads:
    """Images of one kind, of the first scenes, and who made them."""

    threat: Threat
    images: list[np.ndarray]


def union_threat(members: Sequence[Uploads], tier: Tier) -> Threat:
    """What a row says of several attacks together: of each number the smallest among the tier's."""
    own = [uploads.threat for uploads in members if uploads.threat.tier == tier]
    return replace(
        own[0],
        attack=UNION,
        gradient="union",
        steps=min(threat.steps for threat in own),
        eot=min(threat.eot for threat in own),
    )


@dataclass(frozen=True, slots=True)
class _Through:
    """A way through a defence, and what tells it from others on disk."""

    passage: Forward
    setting: str

    @classmethod
    def of(cls, condition: Condition, gradient: str) -> _Through:
        defence = condition.defence
        return cls(defence.gradient_paths[gradient], f"{defence.name} {defence.setting}")


@dataclass(frozen=True, slots=True)
class Uploader:
    """Makes uploads of the first ``num`` scenes; whatever is on disk is not made again."""

    bench: Bench

    def clean(self, num: int) -> Uploads:
        """The scenes themselves."""
        threat = Threat(tier=Tier.CLEAN, attack="none")
        return Uploads(threat, [scene.image for scene in self.bench.scenes[:num]])

    def noised(self, num: int, *, tier: Tier) -> Uploads:
        """Uniform noise of the attack's size, which should do nothing."""
        plan = self.bench.oblivious
        noise = AttackConfig(name=NOISE, epsilon=plan.epsilon / 255, steps=0, seed=plan.seed)
        return self._oblivious(noise, num, tier)

    def oblivious(self, num: int) -> list[Uploads]:
        """T0's images, one set for each of its goals."""
        plan = self.bench.oblivious
        configs = [plan.config(plan.epsilon, goal) for goal in plan.goals]
        return [self._oblivious(config, num, Tier.OBLIVIOUS) for config in configs]

    def transferred(self, num: int) -> list[Uploads]:
        """T1's images, one set for each goal; the same for every defence."""
        plan, surrogate = self.bench.plan, self.bench.surrogate
        asked = [_truths(scene, self.bench.conditions[0]) for scene in self.bench.scenes[:num]]
        uploads = []
        for goal in plan.goals:
            config = self._config(goal, "transfer", plan.num_draws_transfer, plan.steps)
            through = _Through(surrogate.passage, f"surrogate {surrogate.setting}")
            uploads.append(self._through(Tier.TRANSFER, config, through, asked, "all"))
        return uploads

    def white_box(
        self, condition: Condition, num: int, gradient: str, goal: Goal, steps: int | None = None
    ) -> Uploads:
        """T2's images of one condition, attacked through its defence and with its prompt.

        Args:
            condition: what is deployed.
            num: of scenes.
            gradient: one of the defence's gradient paths.
            goal: what is moved.
            steps: another number of steps than the plan's: a point of the step curve.
        """
        config = self._white_box_config(condition, gradient, goal, steps)
        asked = [_truths(scene, condition) for scene in self.bench.scenes[:num]]
        uploads = self._through(
            Tier.WHITE_BOX, config, _Through.of(condition, gradient), asked, condition.name
        )
        return uploads if steps is None else _renamed(uploads, CURVE_SUFFIX)

    def focused(self, condition: Condition, left: Marks, gradient: str, number: int) -> Uploads:
        """T2's images that go at what earlier attacks left standing, by the plan's last goal.

        Args:
            condition: what is deployed.
            left: marks of their union; answers right for any seed are attacked again.
            gradient: one of the defence's gradient paths.
            number: of the round, from 1.
        """
        num = left.cider.shape[1]
        config = self._white_box_config(condition, gradient, self.bench.plan.goals[-1])
        search = replace(config.search, seed=config.search.seed + 1000 * number)
        standing = left.right.max(axis=0) > 0
        asked = []
        for index, scene in enumerate(self.bench.scenes[:num]):
            caption, *answers = _truths(scene, condition)
            kept = standing[left.scene_of == index]
            asked.append([a for a, stands in zip(answers, kept, strict=True) if stands])
            asked[-1] = asked[-1] or [caption]
        through = _Through.of(condition, gradient)
        config = replace(config, search=search)
        uploads = self._through(Tier.WHITE_BOX, config, through, asked, condition.name)
        return _renamed(uploads, f"-left{number}")

    def _white_box_config(
        self, condition: Condition, gradient: str, goal: Goal, steps: int | None = None
    ) -> AdaptiveConfig:
        plan, defence = self.bench.plan, condition.defence
        num_draws = (
            plan.num_draws_network if "surrogate" in defence.gradient_paths else plan.num_draws
        )
        if steps is not None:
            num_draws = plan.num_draws_curve
        return self._config(
            goal, gradient, num_draws if defence.is_random else 1, steps or plan.steps
        )

    def _oblivious(self, config: AttackConfig, num: int, tier: Tier) -> Uploads:
        attacked = AttackedImages(self.bench.attacker, self.bench.out / "attacked")
        # Whole batches, as T0 itself makes them: its files serve here, and these serve T0.
        whole = -(-num // attacked.batch_size) * attacked.batch_size
        images = attacked(config, self.bench.scenes[:whole])[:num]
        return Uploads(Threat.of(config, tier=tier, label=config.label), images)

    def _config(self, goal: Goal, gradient: str, num_draws: int, steps: int) -> AdaptiveConfig:
        plan, oblivious = self.bench.plan, self.bench.oblivious
        return AdaptiveConfig(
            search=replace(oblivious.config(oblivious.epsilon, goal), steps=steps),
            gradient=gradient,
            num_draws=num_draws,
            # A surrogate's draws differ in their noise level, one level a batch.
            draws_at_once=1 if gradient == "transfer" else gcd(num_draws, plan.draws_at_once),
            autocast=plan.autocast,
        )

    def _through(
        self,
        tier: Tier,
        config: AdaptiveConfig,
        through: _Through,
        asked: Sequence[Sequence[Dialogue]],
        shown_as: str,
    ) -> Uploads:
        """Attacks the scenes that ``asked`` holds the right answers of, chunk by chunk."""
        threat = Threat.of(config.search, tier=tier, label=config.search.label)
        threat = replace(threat, eot=config.num_draws, gradient=config.gradient)
        size = self.bench.plan.batch_size
        starts = range(0, len(asked), size)
        label = f"{tier}-{config.search.label}-{config.gradient}-{config.search.steps}"
        images: list[np.ndarray] = []
        total = len(starts) * config.num_evaluations
        with progress(total=total, desc=f"{label} {shown_as}", unit="step") as bar:
            for number, start in enumerate(starts):
                chunk = asked[start : start + size]
                scenes = self.bench.scenes[start : start + len(chunk)]
                seed = 1_000_003 * config.search.seed + number
                seeded = replace(config, search=replace(config.search, seed=seed))
                images += self._chunk(seeded, through, scenes, chunk, label, bar.update)
        return Uploads(threat, images)

    def _chunk(
        self,
        config: AdaptiveConfig,
        through: _Through,
        scenes: Sequence[TrueScene],
        asked: Sequence[Sequence[Dialogue]],
        label: str,
        advance: Callable[[int], object],
    ) -> list[np.ndarray]:
        key = digest_of(
            asdict(config),
            through.setting,
            self.bench.attacker.sha256,
            str(self.bench.attacker.dtype),
            scene_digest(scenes),
            [[asdict(dialogue) for dialogue in dialogues] for dialogues in asked],
        )

        def make() -> list[bytes]:
            return attack_through(
                config,
                self.bench.attacker,
                through.passage,
                [scene.image for scene in scenes],
                asked,
                on_step=lambda: advance(1),
            )

        folder = self.bench.out / "attacked" / label / key
        if are_kept(folder, len(scenes)):
            advance(config.num_evaluations)
        return kept_images(folder, len(scenes), make)


def _renamed(uploads: Uploads, suffix: str) -> Uploads:
    return replace(uploads, threat=replace(uploads.threat, attack=uploads.threat.attack + suffix))


def _truths(scene: TrueScene, condition: Condition) -> list[Dialogue]:
    """What is right of a scene, asked as the condition asks it."""
    caption = Dialogue(condition.prompt("caption", None), scene.captions[0])
    return [
        caption,
        *(Dialogue(condition.prompt("vqa", q.question), q.answer) for q in scene.questions),
    ]
