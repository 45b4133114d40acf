"""Every attack runs by name from scenes to uploads, on a LLaVA, in half precision too."""

import numpy as np
import pytest
import torch

from codefend.lab.attacks.objectives import encoder_distance, untargeted_loss
from codefend.lab.attacks.pixels import decode_png
from codefend.lab.attacks.registry import ATTACKS, AttackConfig
from codefend.lab.attacks.scenes import attack_scenes, attack_uploads
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.victim import Victim
from codefend.models.mllm.tiny import tiny_mllm

TRUTHS = [
    [Dialogue("describe the image.", "a red car"), Dialogue("is there a cat?", "no")],
    [Dialogue("describe the image.", "a cat"), Dialogue("what is at the top left?", "cat")],
    [Dialogue("describe the image.", "a cat to the left of a car")],
]
TARGETS = ["a cat", "a red car", "yes"]


def config(name, **changes):
    epsilon = 8 / 255 if ATTACKS[name].is_ball else 1.0
    return AttackConfig(**{"name": name, "epsilon": epsilon, "steps": 2, **changes})


@pytest.fixture(scope="module")
def surrogate():
    model, processor = tiny_mllm(seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    return Victim.wrap(model, processor, name="surrogate")


@pytest.fixture
def clean(photos):
    return (photos * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def attacked(chosen, victim, clean, **options):
    surrogates = options.pop("surrogates", ())
    files = attack_scenes(chosen, victim, list(clean), TRUTHS, surrogates=surrogates, **options)
    return np.stack([decode_png(file) for file in files])


def floats(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ATTACKS)
def test_runs_by_name_and_keeps_its_bound(name, dtype, victim, surrogate, clean):
    chosen = config(name)
    surrogates = [surrogate] if name == "ensemble" else []
    pixels = attacked(chosen, victim.astype(dtype), clean, surrogates=surrogates)
    assert chosen.budget.admits(pixels, clean).all()
    assert (pixels != clean).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    "name", sorted(set(ATTACKS) - {"figstep", "scaling", "typographic", "uniform_noise"})
)
def test_raises_the_victims_loss_as_uploaded(name, victim, surrogate, clean):
    surrogates = [surrogate] if name == "ensemble" else []
    pixels = attacked(config(name, steps=8), victim, clean, surrogates=surrogates)
    loss = untargeted_loss(victim, TRUTHS)
    with torch.no_grad():
        assert loss(floats(pixels)).mean() > loss(floats(clean)).mean()


@pytest.mark.parametrize("goal", ["language", "margin", "encoder", "prototype", "matching"])
@pytest.mark.parametrize("name", ["pgd", "m_attack", "low_frequency"])
def test_every_goal_combines_with_every_search(name, goal, victim, clean):
    chosen = config(name, goal=goal)
    assert chosen.budget.admits(attacked(chosen, victim, clean), clean).all()


def test_targets(victim, clean):
    targeted = config("pgd", steps=6, goal="encoder", targeted=True)
    wanted = np.roll(clean, 1, axis=0)
    near = encoder_distance(victim, floats(wanted), towards=True)
    pixels = attacked(targeted, victim, clean, target_images=wanted)
    with torch.no_grad():
        assert (near(floats(pixels)) > near(floats(clean))).all()
    for goal in ("language", "matching"):
        chosen = config("pgd", goal=goal, targeted=True)
        one = attacked(chosen, victim, clean, targets=TARGETS)
        other = attacked(chosen, victim, clean, targets=TARGETS[::-1])
        assert (one[0] != other[0]).any()
        assert (one[1] == other[1]).all()


def test_what_an_attack_lacks_is_said(victim, clean):
    with pytest.raises(ValueError, match="target image for each"):
        attacked(config("pgd", goal="encoder", targeted=True), victim, clean)
    with pytest.raises(ValueError, match="target caption for each"):
        attacked(config("pgd", goal="matching", targeted=True), victim, clean)
    with pytest.raises(ValueError, match="at least one surrogate"):
        attacked(config("ensemble"), victim, clean)
    with pytest.raises(ValueError, match="at least two"):
        attack_scenes(config("universal"), victim, list(clean[:1]), TRUTHS[:1])


def test_surrogates_count(victim, surrogate, clean):
    alone = attacked(config("pgd"), victim, clean)
    both = attacked(config("pgd"), victim, clean, surrogates=[surrogate])
    assert (alone != both).any()


def test_questions_come_back_changed_under_the_joint_attack_alone(victim, clean):
    asked = [tuple(dialogue.prompt for dialogue in group) for group in TRUTHS]
    plain = attack_uploads(config("pgd"), victim, list(clean), TRUTHS)
    assert [upload.prompts for upload in plain] == asked
    joint = attack_uploads(config("joint"), victim, list(clean), TRUTHS)
    changed = [upload.prompts for upload in joint]
    assert [len(prompts) for prompts in changed] == [len(prompts) for prompts in asked]
    assert changed != asked


@pytest.mark.parametrize("name", ["pgd", "apgd", "joint"])
def test_every_step_is_told_and_may_be_the_last(name, victim, clean):
    told = []
    attack_scenes(config(name), victim, list(clean), TRUTHS, on_step=lambda: told.append(name))
    assert len(told) == config(name).steps + 1

    def leave():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        attack_scenes(config(name), victim, list(clean), TRUTHS, on_step=leave)
