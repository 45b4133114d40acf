"""The playground without its page: attacks that are watched and ended, and answers beside them."""

import io
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.playground.trials import CleanPicture, LiveAttack, Studio, Wish, read_photo
from codefend.lab.victims.dialogue import CAPTION_REQUEST, Dialogue
from codefend.models.prompts.templates import Task, Template, read_templates
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.strengths import STRENGTHS, Strength

PROMPT = "Look twice. {question}"


@pytest.fixture(scope="module")
def purifier():
    pipeline = PurificationPipeline.tiny(0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def studio(victim, purifier):
    return Studio(victim, purifier, read_templates())


@pytest.fixture
def original(photos):
    pixels = (photos[0] * 255).round().byte().permute(1, 2, 0).numpy()
    truths = (Dialogue(CAPTION_REQUEST, "a red car"), Dialogue("is there a cat?", "no"))
    return CleanPicture(pixels, truths)


def finish(live):
    assert live.wait(60)
    return live.result()


@pytest.mark.parametrize(
    "wish",
    [
        Wish(8, 3),
        Wish(2, 3, "pgd"),
        Wish(4, 3, target="a cat"),
        *(Wish(4, 2, through=strength) for strength in Strength),
    ],
    ids=str,
)
def test_an_attack_keeps_its_bound_and_counts_its_steps(studio, original, wish):
    live = studio.attack(original, wish)
    attacked = finish(live)
    changed = np.abs(attacked.astype(int) - original.pixels)
    assert 0 < changed.max() <= wish.levels
    assert live.num_done == wish.steps + 1


def test_what_is_not_known_of_a_photo_the_victim_says_itself(studio, original):
    assert (
        finish(studio.attack(CleanPicture(original.pixels), Wish(8, 2))) != original.pixels
    ).any()


def test_every_attack_starts_elsewhere(studio, original):
    first, second = (finish(studio.attack(original, Wish(8, 1))) for _ in range(2))
    assert (first != second).any()


def test_a_target_is_not_for_whoever_knows_the_defence():
    with pytest.raises(LabError, match="leave the target"):
        Wish(8, 10, target="a cat", through=Strength.STANDARD)


def test_a_cancelled_attack_ends_at_its_next_step():
    begun, goes_on = threading.Event(), threading.Event()

    def attack(on_step):
        on_step()
        begun.set()
        assert goes_on.wait(60)
        while True:
            on_step()

    live = LiveAttack(attack)
    assert begun.wait(60)
    assert not live.wait(0)
    live.cancel()
    goes_on.set()
    assert live.wait(60)
    with pytest.raises(CancelledError):
        live.result()
    assert live.num_done == 2


def test_a_real_attack_is_cancelled_too(studio, original):
    live = studio.attack(original, Wish(8, 100_000))
    live.cancel()
    assert live.wait(60)
    with pytest.raises(CancelledError):
        live.result()
    assert live.num_done < 10, "it ends with the step that runs, of a hundred thousand"


def test_pictures_stand_side_by_side(studio, original):
    attacked = np.uint8(255) - original.pixels
    compared = studio.compare(original.pixels, attacked, "is there a cat?", with_prompt=False)
    names = ["clean", "attacked", "purified, light", "purified, standard", "purified, strong"]
    assert [answered.name for answered in compared] == names
    assert np.array_equal(compared[0].pixels, original.pixels)
    assert np.array_equal(compared[1].pixels, attacked)
    assert all(answered.pixels.shape == original.pixels.shape for answered in compared)
    assert all(len(answered.answers) == 2 for answered in compared)
    without = studio.compare(original.pixels, None, "is there a cat?", with_prompt=False)
    assert [answered.name for answered in without] == [names[0], *names[2:]]
    assert without[0].answers == compared[0].answers


def test_every_strength_is_what_is_served(studio, original, purifier, monkeypatch):
    asked = []
    purify = purifier.purify

    def note(*arguments, noise_level, num_steps, **options):
        asked.append((noise_level, num_steps))
        return purify(*arguments, noise_level=noise_level, num_steps=num_steps, **options)

    monkeypatch.setattr(purifier, "purify", note)
    for strength in Strength:
        studio.purify(original.pixels, strength)
    own = purifier.config
    rows = [STRENGTHS[strength].levels(own.noise_level, own.num_steps) for strength in Strength]
    assert asked == [(levels[0], len(levels)) for levels in rows]


@pytest.mark.parametrize("strength", Strength)
def test_whoever_knows_the_defence_goes_through_the_strength_that_was_picked(
    studio, original, monkeypatch, strength
):
    searched = []

    def note(adaptive, _victim, forward, images, _truths, *, on_step):
        searched.append((adaptive.gradient, forward))
        on_step()
        return [png(images[0])]

    monkeypatch.setattr("codefend.lab.playground.trials.attack_through", note)
    finish(studio.attack(original, Wish(8, 2, through=strength)))
    ((gradient, forward),) = searched
    assert gradient == "exact"
    images = torch.from_numpy(original.pixels.copy()).permute(2, 0, 1)[None] / 255
    images.requires_grad_(True)
    seen = forward(images, torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad(seen.square().sum(), images)
    assert float(slope.abs().max()) > 0


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def test_a_purifier_whose_noise_is_on_another_scale_has_one_strength(victim, original):
    latent = LatentPurificationPipeline.tiny()
    latent.set_progress_bar_config(disable=True)
    studio = Studio(victim, latent, read_templates())
    compared = studio.compare(original.pixels, None, "what?", with_prompt=False)
    assert [answered.name for answered in compared] == ["clean", "purified, standard"]


def test_the_prompt_goes_to_purified_pictures_alone(victim, purifier, original, monkeypatch):
    asked = {}

    def generate(_, images, prompts, *, max_new_tokens):
        asked["prompts"] = [list(texts) for texts in prompts]
        return [["a", "b"] for _ in images]

    monkeypatch.setattr("codefend.lab.playground.trials.generate", generate)
    template = Template("careful", "1", PROMPT)
    studio = Studio(victim, purifier, dict.fromkeys(Task, template))
    assert studio.prompt == "Look twice."
    plain = [CAPTION_REQUEST, "what?"]
    defended = [PROMPT.format(question=text) for text in plain]
    studio.compare(original.pixels, original.pixels, "what?", with_prompt=True)
    assert asked["prompts"] == [plain] * 2 + [defended] * len(Strength)
    studio.compare(original.pixels, original.pixels, "what?", with_prompt=False)
    assert asked["prompts"] == [plain] * (2 + len(Strength))


def test_a_plain_template_is_no_prompt(studio):
    assert studio.prompt is None


def test_a_photo_is_turned_upright_laid_on_white_and_scaled_down(tmp_path):
    turned, clear = tmp_path / "turned.jpg", tmp_path / "clear.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (400, 200), "red").save(turned, exif=exif)
    Image.new("RGBA", (10, 20), (0, 0, 0, 0)).save(clear)
    assert read_photo(turned, 100).shape == (100, 50, 3)
    assert (read_photo(clear, 100) == 255).all()
    assert read_photo(clear, 100).shape == (20, 10, 3)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_picture_is_named(tmp_path, content):
    file = tmp_path / "notes.png"
    file.write_bytes(content)
    with pytest.raises(LabError, match=r"notes\.png cannot be read as a picture"):
        read_photo(file, 100)
