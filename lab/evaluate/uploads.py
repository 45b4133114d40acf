"""What is uploaded: clean, noised or attacked images, made once, kept, re-read from PNG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import gcd

import numpy as np

from codefend.lab.attacks.adaptive import AdaptiveConfig, attack_through
from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.registry import AttackConfig, Goal
from codefend.lab.attacks.scenes import attack_uploads
from codefend.lab.baselines.defence import Forward, PerImage
from codefend.lab.evaluate.context import EvalContext, ObliviousSettings
from codefend.lab.evaluate.data import TrueScene, target_captions, truths
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.scores import Scores
from codefend.lab.experiments.craft import AttackBatch, craft
from codefend.lab.experiments.report import Threat
from codefend.lab.experiments.store import Store, digest_of
from codefend.lab.labels import NOISE, UNION
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.victim import Victim

__all__ = ["CURVE_SUFFIX", "Attacker", "Uploader", "Uploads", "oblivious_uploads", "union_threat"]

CURVE_SUFFIX = "-curve"
_Aim = str | np.ndarray | None  # a caption, an image, or just away from the truth
_WORDED = "joint"  # the attack that changes the questions, too


@dataclass(frozen=True, slots=True)
class Uploads:
    """Images of one kind, and who made them.

    Attributes:
        threat: who attacked how; tier `clean` where nobody did.
        images: (H, W, 3) uint8 each.
        clean: what each was before, where it is to be told from that.
        targets: the captions that a targeted attack heads for.
    """

    threat: Threat
    images: Sequence[np.ndarray]
    clean: Sequence[np.ndarray] = ()
    targets: Sequence[str] | None = None


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
class Attacker:
    """Attacks scenes with one model's gradients.

    Attributes:
        victim: whose gradients are used.
        store: where attacked images are kept.
        others: further models of the ensemble's attacker.
        batch_size: scenes attacked at once.
    """

    victim: Victim
    store: Store
    others: Sequence[Victim] = ()
    batch_size: int = 32

    def oblivious(
        self, config: AttackConfig, scenes: Sequence[TrueScene], targets: Sequence[str] = ()
    ) -> list[np.ndarray]:
        """Attacked versions of the scenes, (H, W, 3) uint8 each, as an attacker would upload them.

        Args:
            config: any attack by name; a targeted one on the encoder heads for the image of a scene
                further on.
            scenes: what is attacked, all of one size.
            targets: for a targeted attack on the language model, the captions to head for.
        """
        others = self.others if config.name == "ensemble" else ()
        # One perturbation for all images is learned on half of them: it needs them at once.
        size = len(scenes) if config.name == "universal" else self.batch_size
        following = [scenes[(i + size) % len(scenes)].image for i in range(len(scenes))]
        nothing = [None] * len(scenes)
        aims: Sequence[_Aim] = targets or (following if config.targeted else nothing)

        def attack(batch: AttackBatch[tuple[TrueScene, _Aim]]) -> list[bytes]:
            own = [scene for scene, _ in batch.items]
            uploads = attack_uploads(
                replace(config, seed=batch.seed),
                self.victim,
                [scene.image for scene in own],
                [truths(scene) for scene in own],
                [aim for _, aim in batch.items if isinstance(aim, str)],
                target_images=[aim for _, aim in batch.items if isinstance(aim, np.ndarray)],
                surrogates=others,
            )
            for scene, upload in zip(own, uploads, strict=True):
                if config.name == _WORDED:
                    self.store.json(self._worded(config, scene), partial(list, upload.prompts))
            return [upload.image for upload in uploads]

        aim = "targeted" if config.targeted else "untargeted"
        return craft(
            self.store,
            f"{config.label}-{aim}-{round(config.epsilon * 255)}",
            list(zip(scenes, aims, strict=True)),
            attack,
            made_by=[config, self.identity, [other.sha256 for other in others]],
            seed=config.seed,
            batch_size=size,
        )

    def wordings(self, config: AttackConfig, scenes: Sequence[TrueScene]) -> list[list[str]]:
        """The caption's prompt and each question's, as the attacker of these images words them."""
        return [
            self.store.json(self._worded(config, scene), list)
            if config.name == _WORDED
            else [dialogue.prompt for dialogue in truths(scene)]
            for scene in scenes
        ]

    def through(
        self,
        label: str,
        config: AdaptiveConfig,
        forward: Forward,
        setting: str,
        asked: Sequence[tuple[TrueScene, Sequence[Dialogue]]],
        *,
        batch_size: int,
        penalty: PerImage | None = None,
    ) -> list[np.ndarray]:
        """Scenes attacked through a defence.

        Args:
            label: of the attack.
            config: the attack.
            forward: the way through the defence.
            setting: tells this defence from others on disk.
            asked: scenes with what the attack leads away from, asked as the defended model is.
            batch_size: images attacked at once.
            penalty: what this way costs, if anything; told on disk by config and setting.
        """

        def attack(batch: AttackBatch[tuple[TrueScene, Sequence[Dialogue]]]) -> list[bytes]:
            return attack_through(
                replace(config, search=replace(config.search, seed=batch.seed)),
                self.victim,
                forward,
                [scene.image for scene, _ in batch.items],
                [dialogues for _, dialogues in batch.items],
                penalty=penalty,
                on_step=lambda: batch.advance(1),
            )

        return craft(
            self.store,
            label,
            asked,
            attack,
            made_by=[config, setting, self.identity],
            seed=config.search.seed,
            batch_size=batch_size,
            num_steps=config.num_evaluations,
        )

    @property
    def identity(self) -> list[str]:
        """What tells images of different attackers apart on disk."""
        return [self.victim.sha256, str(self.victim.dtype)]

    def _worded(self, config: AttackConfig, scene: TrueScene) -> str:
        return f"{config.label}-wordings/{digest_of(config, self.identity, scene)}"


def oblivious_uploads(
    attacker: Attacker, settings: ObliviousSettings, scenes: Sequence[TrueScene]
) -> Iterator[Uploads]:
    """T0's images: every goal at the main radius, the first at the others, towards a caption, too.

    Where scenes have no captions, none is headed for.

    Args:
        attacker: who attacks.
        settings: how.
        scenes: what is attacked.
    """

    def made(config: AttackConfig, num: int, targets: Sequence[str] | None = None) -> Uploads:
        own = scenes[:num]
        images = attacker.oblivious(config, own, targets or ())
        threat = Threat.of(config, tier=Tier.OBLIVIOUS)
        return Uploads(threat, images, [scene.image for scene in own], targets)

    for epsilon in sorted({settings.epsilon, *settings.epsilons}):
        is_main = epsilon == settings.epsilon
        for goal in settings.goals if is_main else settings.goals[:1]:
            num = len(scenes) if is_main else settings.num_scenes_other
            if num:
                yield made(settings.config(epsilon, goal), num)
    num = settings.num_scenes_targeted
    if num and any(scene.captions for scene in scenes):
        targets = target_captions(scenes, seed=settings.seed)[:num]
        yield made(settings.config(settings.epsilon, "language", targeted=True), num, targets)


@dataclass(frozen=True, slots=True)
class Uploader:
    """Makes the uploads of every tier, of the first `num` scenes of an evaluation."""

    context: EvalContext

    @property
    def attacker(self) -> Attacker:
        """Who makes them."""
        context = self.context
        store, size = Store(context.out / "attacked"), context.oblivious.batch_size
        return Attacker(context.attacker, store, context.others, size)

    def clean(self, num: int) -> Uploads:
        """The scenes themselves."""
        threat = Threat(tier=Tier.CLEAN, attack="none")
        return Uploads(threat, [scene.image for scene in self.context.scenes[:num]])

    def noised(self, num: int, *, tier: Tier, epsilon: int | None = None) -> Uploads:
        """Uniform noise of the attack's size, or of another, which should do nothing."""
        settings = self.context.oblivious
        radius = (epsilon or settings.epsilon) / 255
        noise = AttackConfig(name=NOISE, epsilon=radius, steps=0, seed=settings.seed)
        return self._oblivious(noise, num, tier)

    def oblivious(self, num: int) -> list[Uploads]:
        """T0's images, one set for each of its goals."""
        settings = self.context.oblivious
        configs = [settings.config(settings.epsilon, goal) for goal in settings.goals]
        return [self._oblivious(config, num, Tier.OBLIVIOUS) for config in configs]

    def transferred(self, num: int) -> list[Uploads]:
        """T1's images, one set for each goal; the same for every defence."""
        settings, surrogate = self.context.tiers, self.context.surrogate
        if surrogate is None:
            raise ValueError("T1 needs a surrogate to attack through")
        asked = self._asked(self.context.conditions[0], num)
        return [
            self._through(
                Tier.TRANSFER,
                self._config(goal, "transfer", settings.num_draws_transfer, settings.steps),
                surrogate.forward,
                f"surrogate {surrogate.setting}",
                asked,
            )
            for goal in settings.goals
        ]

    def white_box(
        self, condition: Condition, num: int, gradient: str, goal: Goal, steps: int | None = None
    ) -> Uploads:
        """T2's images of one condition, attacked through its defence and with its prompt.

        Args:
            condition: what is deployed.
            num: of scenes.
            gradient: one of the defence's gradient paths.
            goal: what is moved.
            steps: another number of steps than the settings': a point of the step curve.
        """
        config = self._white_box_config(condition, gradient, goal, steps)
        suffix = "" if steps is None else CURVE_SUFFIX
        return self._white_box(condition, config, self._asked(condition, num), suffix)

    def focused(self, condition: Condition, left: Scores, gradient: str, number: int) -> Uploads:
        """T2's images that go at what earlier attacks left standing, by the settings' last goal.

        Args:
            condition: what is deployed.
            left: scores of their union; answers right for any seed are attacked again.
            gradient: one of the defence's gradient paths.
            number: of the round, from 1.
        """
        config = self._white_box_config(condition, gradient, self.context.tiers.goals[-1])
        search = replace(config.search, seed=config.search.seed + 1000 * number)
        standing = left.right.max(axis=0) > 0
        asked: list[tuple[TrueScene, list[Dialogue]]] = []
        for index, (scene, dialogues) in enumerate(self._asked(condition, left.num_scenes)):
            num_captions = len(dialogues) - len(scene.questions)
            captions, answers = dialogues[:num_captions], dialogues[num_captions:]
            stands = standing[left.scene_of == index]
            kept = [answer for answer, is_left in zip(answers, stands, strict=True) if is_left]
            asked.append((scene, kept or captions or answers))
        return self._white_box(condition, replace(config, search=search), asked, f"-left{number}")

    def _asked(self, condition: Condition, num: int) -> list[tuple[TrueScene, list[Dialogue]]]:
        """What is right of the first scenes, asked as the condition asks it."""

        def dialogues(scene: TrueScene) -> list[Dialogue]:
            request = condition.prompt("caption", scene.request)
            return [
                *(Dialogue(request, caption) for caption in scene.captions[:1]),
                *(Dialogue(condition.prompt("vqa", q.question), q.answer) for q in scene.questions),
            ]

        return [(scene, dialogues(scene)) for scene in self.context.scenes[:num]]

    def _white_box_config(
        self, condition: Condition, gradient: str, goal: Goal, steps: int | None = None
    ) -> AdaptiveConfig:
        settings, defence = self.context.tiers, condition.defence
        is_network = "surrogate" in defence.gradient_paths
        num_draws = settings.num_draws_network if is_network else settings.num_draws
        if steps is not None:
            num_draws = settings.num_draws_curve
        return self._config(
            goal, gradient, num_draws if defence.is_random else 1, steps or settings.steps
        )

    def _config(self, goal: Goal, gradient: str, num_draws: int, steps: int) -> AdaptiveConfig:
        settings, oblivious = self.context.tiers, self.context.oblivious
        return AdaptiveConfig(
            search=replace(oblivious.config(oblivious.epsilon, goal), steps=steps),
            gradient=gradient,
            num_draws=num_draws,
            # A surrogate's draws differ in their noise level, one level a batch.
            draws_at_once=1 if gradient == "transfer" else gcd(num_draws, settings.draws_at_once),
            autocast=settings.autocast,
        )

    def _oblivious(self, config: AttackConfig, num: int, tier: Tier) -> Uploads:
        # Whole batches, as T0 itself makes them: its files serve here, and these serve T0.
        attacker = self.attacker
        whole = -(-num // attacker.batch_size) * attacker.batch_size
        images = attacker.oblivious(config, self.context.scenes[:whole])[:num]
        return Uploads(Threat.of(config, tier=tier), images)

    def _white_box(
        self,
        condition: Condition,
        config: AdaptiveConfig,
        asked: Sequence[tuple[TrueScene, Sequence[Dialogue]]],
        suffix: str,
    ) -> Uploads:
        defence = condition.defence
        setting = f"{defence.name} {defence.setting}"
        forward = defence.gradient_paths[config.gradient]
        penalty = defence.penalties.get(config.gradient)
        uploads = self._through(Tier.WHITE_BOX, config, forward, setting, asked, penalty)
        threat = replace(uploads.threat, attack=uploads.threat.attack + suffix)
        return replace(uploads, threat=threat)

    def _through(
        self,
        tier: Tier,
        config: AdaptiveConfig,
        forward: Forward,
        setting: str,
        asked: Sequence[tuple[TrueScene, Sequence[Dialogue]]],
        penalty: PerImage | None = None,
    ) -> Uploads:
        search = config.search
        label = f"{tier}-{search.label}-{config.gradient}-{search.steps}"
        size = self.context.tiers.batch_size
        images = self.attacker.through(
            label, config, forward, setting, asked, batch_size=size, penalty=penalty
        )
        threat = Threat.of(search, tier=tier)
        return Uploads(replace(threat, eot=config.num_draws, gradient=config.gradient), images)
