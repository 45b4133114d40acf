"""Pictures of every kind, attacked in feature space as the purifier learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import codefend.lab.train.online
from codefend.lab.errors import LabError
from codefend.lab.experiments.settings import add_command
from codefend.lab.train.command import ablations, photographs
from codefend.lab.train.online import (
    EPSILON_RANGE,
    OnlineLoss,
    OnlineOptions,
    OnlineSource,
    feature_attack,
    relative_distance,
)
from codefend.lab.train.pictures import (
    TEST_PHOTOS_FILE,
    Photographs,
    PictureMix,
    augmented,
    held_out_hashes,
    is_held_out,
)
from codefend.lab.train.settings import VARIANTS, AblationsRun, PhotographsRun
from codefend.lab.world.assets import photo_paths
from codefend.lab.world.collages import PLACES_PACKAGE, THINGS_PACKAGE, _photographs
from codefend.lab.world.dead_leaves import dead_leaves
from codefend.models.purifier.network import build_network
from codefend.models.purifier.pipeline import PurificationPipeline
from tests.lab.train.test_resume import edges, source

pytestmark = pytest.mark.slow


@pytest.fixture
def photo_folder(world_file):
    return world_file.parent / "photos"


@pytest.fixture
def mix(world, photo_folder):
    photographs = Photographs.find([photo_folder])
    return PictureMix(world=world, photographs=photographs, size_px=64, batch_size=16)


def test_every_step_shows_every_kind_and_repeats_itself(mix):
    batch = mix.batch(7)
    assert batch.shape == (16, 3, 64, 64)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, mix.batch(7))
    assert not torch.equal(batch, mix.batch(8))
    scenes, text, rest = batch[:4], batch[4:7], batch[7:]
    assert all(len(image.unique()) > 8 for image in (*scenes, *rest))
    assert all(
        float((image.float() - image.float().median()).abs().median()) < 40 for image in text
    )


def test_shares_that_do_not_fit_are_refused(world, photo_folder):
    photographs = Photographs.find([photo_folder])
    with pytest.raises(LabError, match="together at most 1"):
        PictureMix(world=world, photographs=photographs, scene_share=0.9, text_share=0.2)
    with pytest.raises(LabError, match="128 pixels"):
        PictureMix(world=world, photographs=photographs, size_px=160)
    with pytest.raises(ValueError, match="together at most 1"):
        OnlineOptions(clean_share=0.7, adversarial_share=0.4)


def test_a_photograph_is_seen_at_its_own_pixels_and_as_a_whole(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (300, 400, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    windows = Photographs.find([tmp_path]).windows(40, 64, 0, rng)
    contrast = [float(window.std()) for window in windows]
    assert max(contrast) > 60  # single pixels: nothing was averaged
    assert min(contrast) < 35
    assert {window.shape for window in windows} == {(64, 64, 3)}


def test_pictures_that_a_test_shows_are_left_out(tmp_path, monkeypatch):
    import imagehash

    rng = np.random.default_rng(1)
    for name in ("mine", "theirs"):
        coarse = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((800, 600), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{name}.png")
        own = imagehash.phash(image)
    image.resize((400, 300)).save(tmp_path / "theirs-small.jpg", quality=80)
    monkeypatch.setattr("codefend.lab.train.pictures._known", lambda: (own,))
    assert [path.stem for path in Photographs.find([tmp_path]).paths] == ["mine"]
    (tmp_path / "mine.png").unlink()
    with pytest.raises(LabError, match="no photographs"):
        Photographs.find([tmp_path])


def test_the_list_of_held_out_pictures_names_every_test():
    text = TEST_PHOTOS_FILE.read_text()
    assert all(
        name in text
        for name in ("tuxpaint-stamps-default", "lomiri-wallpapers-16.04", "scenes of validation")
    )
    assert len(held_out_hashes()) >= 150


def test_augmentation_changes_the_light_and_not_the_picture():
    pixels = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3))
    rng = np.random.default_rng(0)
    seen = [augmented(pixels, rng) for _ in range(30)]
    assert len({image.tobytes() for image in seen}) > 5
    for image in seen:
        rising = image.mean(axis=(0, 2))
        assert abs(np.corrcoef(rising, np.arange(64))[0, 1]) > 0.9


def test_dead_leaves_have_edges_at_every_scale_and_follow_their_seed():
    pictures = [dead_leaves(96, np.random.default_rng(seed)) for seed in range(4)]
    again = dead_leaves(96, np.random.default_rng(0))
    assert np.array_equal(pictures[0], again)
    grey = np.stack(pictures).mean(axis=3)
    for stride in (1, 4, 16):
        assert np.abs(np.diff(grey[:, ::stride, ::stride], axis=2)).mean() > 2
    assert len({picture.tobytes() for picture in pictures}) == 4


@pytest.mark.parametrize("l2", [False, True])
def test_feature_attacks_climb_within_their_radius(l2, monkeypatch):
    monkeypatch.setattr(codefend.lab.train.online, "_L2_SHARE", 1.0 if l2 else 0.0)
    torch.manual_seed(0)
    clean = (torch.rand(4, 3, 32, 32) * 255).round() / 255
    encoder = edges()
    (wanted,) = encoder.features_at(clean, [1])

    def objective(images):
        return relative_distance(encoder.features_at(images, [1])[0], wanted)

    attacked = feature_attack(clean, objective, steps=5)
    moved = attacked - clean
    noise = moved[torch.randperm(4)].flatten(1)[:, torch.randperm(3072)].view_as(moved)
    assert (objective(attacked) > 1.2 * objective((clean + noise).clamp(0, 1))).all()
    assert torch.equal((attacked * 255).round() / 255, attacked)
    if l2:
        reach = 0.5 * EPSILON_RANGE[1] * 3072**0.5
        assert float(moved.flatten(1).norm(dim=1).max()) <= reach + 0.5 / 255 * 3072**0.5
    else:
        largest = moved.abs().amax(dim=(1, 2, 3)) * 255
        assert float(largest.max()) <= 16.5
        assert float(largest.min()) >= 1.5


def test_replayed_noise_is_that_of_the_attack_and_of_the_purification(
    world, photo_folder, monkeypatch
):
    network = build_network(widths=(16, 16), num_layers=1)
    torch.nn.init.normal_(network.conv_out.weight, std=0.02)
    pictures = source(world, photo_folder)
    clean = pictures.mix.batch(0).float() / 255
    seen = []
    real = OnlineLoss._purify

    def spy(self, images, sigma, noise):
        seen.append((len(images), sigma.clone(), noise.clone()))
        return real(self, images, sigma, noise)

    monkeypatch.setattr(OnlineLoss, "_purify", spy)
    for replayed in (True, False):
        seen.clear()
        torch.manual_seed(0)
        options = OnlineOptions(adversarial_steps=2, replayed=replayed)
        loss, figures = OnlineLoss(network, torch.float32, options)(pictures, clean)
        *inner, (_, sigma, noise) = seen
        assert [num for num, _, _ in inner] == [2, 2]
        assert all(torch.equal(s, sigma[-2:]) == replayed for _, s, _ in inner)
        assert all(torch.equal(n, noise[-2:]) == replayed for _, _, n in inner)
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert set(figures) >= {"psnr_clean", "features_adversarial"}


def test_stored_pairs_are_learned_beside(world, photo_folder, victim, tmp_path):
    from codefend.lab.train.pairs import Pairs
    from codefend.lab.train.sources import PairSource, SourceBatches

    clean = torch.full((4, 3, 32, 32), 100, dtype=torch.uint8)
    stored = PairSource(
        pairs=Pairs(clean, clean + 10, torch.full((4,), 10 / 255)), extractor=victim, batch_size=4
    )
    online = source(world, photo_folder)
    first, second = SourceBatches(world, [online, stored], 0)[3]
    assert torch.equal(first[0], first[1])
    assert second[0].shape == (4, 3, 32, 32)
    assert isinstance(online, OnlineSource)


def test_the_command_trains_publishes_and_goes_on(world_file, photo_folder, tmp_path):
    app = typer.Typer()
    add_command(app, "photographs", PhotographsRun, photographs)
    call = (
        f"--world {world_file} --packages {photo_folder} --runs {tmp_path / 'run'} "
        f"--weights {tmp_path / 'weights'} --encoders efficientnet-lite0 --size-px 32 "
        "--batch-size 4 --num-workers 0 --checkpoint-steps 1 --steps 3 --version 7"
    ).split()
    assert CliRunner().invoke(app, [*call, "--stop-after", "1"]).exit_code == 0
    told = CliRunner().invoke(app, call)
    assert told.exit_code == 0, told.output
    assert not torch.backends.cudnn.benchmark, "every step has other shapes"
    curve = (tmp_path / "run" / "purifier.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curve] == [1, 2, 3]
    made = PurificationPipeline.from_pretrained(tmp_path / "weights" / "purifier")
    assert made.config.version == "7"
    refused = CliRunner().invoke(app, [*call, "--size-px", "40"])
    assert isinstance(refused.exception, LabError)


@pytest.mark.parametrize("package", [THINGS_PACKAGE, PLACES_PACKAGE])
def test_every_picture_of_the_test_is_known_by_its_hash(package):
    folder = Path("work/packages") / package
    if not folder.exists():
        pytest.skip(f"{folder} is not there: codefend-lab data collages fetches it")
    pictures = (
        list(_photographs(folder)) if package == THINGS_PACKAGE else list(photo_paths(folder))
    )
    assert len(pictures) >= 15
    assert all(is_held_out(picture) for picture in pictures)


@pytest.mark.usefixtures("encoders_folder")
def test_ablations_differ_in_one_part_and_start_alike(world_file, photo_folder, tmp_path):
    app = typer.Typer()
    add_command(app, "ablations", AblationsRun, ablations)
    call = (
        f"--world {world_file} --packages {photo_folder} --runs {tmp_path} --size-px 32 "
        "--batch-size 8 --steps 1 --variants"
    ).split()
    told = CliRunner().invoke(app, [*call, "one_encoder,no_leaves"])
    assert told.exit_code == 0, told.output
    made = [
        PurificationPipeline.from_pretrained(tmp_path / name / "purifier")
        for name in ("one_encoder", "no_leaves")
    ]
    assert [each.config.version for each in made] == ["one_encoder", "no_leaves"]
    weights = [torch.cat([p.flatten() for p in each.unet.parameters()]) for each in made]
    assert not torch.equal(*weights)
    assert CliRunner().invoke(app, [*call, "no-such"]).exit_code == 2
    assert all(set(changed) <= set(PhotographsRun.model_fields) for changed in VARIANTS.values())
    assert all(len(changed) <= 1 for changed in VARIANTS.values())
