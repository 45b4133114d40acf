"""Networks and defences are named in words, published runs are files, and attacks end when won."""

import tomllib
from pathlib import Path

import pytest
import torch

from codefend.lab.baselines.compression import jpeg
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.baselines.filters import gaussian_noise
from codefend.lab.classification.classify import Classify
from codefend.lab.errors import LabError
from codefend.lab.experiments.pretrained import StoppingPGD, label_of, named, through
from codefend.lab.experiments.settings import read_settings
from codefend.lab.recognition.read import Read
from codefend.models.purifier.pipeline import PurificationPipeline

PUBLISHED = Path(__file__).parents[3] / "experiments"
FILES = {"photographs": Classify, "reading": Read}


@pytest.mark.parametrize("name", FILES)
def test_a_published_run_is_a_file_whose_defences_exist(name):
    given = tomllib.loads((PUBLISHED / f"{name}.toml").read_text())
    assert given.pop("experiment") == FILES[name].name
    settings = read_settings(FILES[name], [], given=given)
    tiny = PurificationPipeline.tiny()
    networks = {name: (tiny, "0" * 64) for name in ("purifier", "base", *settings.network)}
    words = (*settings.defences, *settings.through)
    assert len(named(words, networks)) == len(words)
    assert str(settings.out).startswith("docs/robustness/")


def test_networks_are_given_one_by_one_or_together():
    one_by_one = ["--out", "x", "--network", "a=b/c", "--network", "d=e"]
    together = ["--out", "x", "--network", "a=b/c,d=e"]
    wanted = {"a": Path("b/c"), "d": Path("e")}
    assert read_settings(Classify, one_by_one).network == wanted
    assert read_settings(Read, together).network == wanted


@pytest.mark.parametrize("network", ["a+b=c", "8=c", "purifier:0.05=c"])
def test_a_network_has_a_name_that_a_chain_can_hold(network):
    with pytest.raises(LabError, match="--network"):
        read_settings(Classify, ["--out", "x", "--network", network])


def test_rows_name_a_defence_without_its_weights():
    (purifier,) = named(["p:0.05"], {"p": (PurificationPipeline.tiny(), "0" * 64)})
    assert label_of(purifier) == "p noise_level=0.05 num_steps=1"
    assert label_of(jpeg(30)) == "jpeg quality=30"
    assert label_of(NO_DEFENCE) == "none"


def brightness(images):
    return images.mean(dim=(1, 2, 3)) - 0.5


def test_an_attack_ends_where_it_has_won():
    images = torch.full((2, 3, 4, 4), 0.49)
    images[1] = 0.3  # out of reach
    looks = []

    def is_won(best):
        looks.append(brightness(best))
        return torch.tensor([len(looks) >= 2, False])

    attack = StoppingPGD(epsilon=0.1, steps=50, is_won=is_won)
    generator = torch.Generator().manual_seed(0)
    attack_alone = StoppingPGD(epsilon=0.1, steps=50, is_won=lambda best: is_won(best)[:1])
    attack_alone(images[:1], brightness, generator=generator)
    assert len(looks) == 2
    assert 0 < looks[0][0] < looks[1][0]

    looks.clear()
    found = attack(images, brightness, generator=generator)
    assert len(looks) == 10, "the other is attacked to the end"
    assert all(look[0] == looks[1][0] for look in looks[1:]), "the won one stays as it was"
    assert float(brightness(found)[1]) == pytest.approx(-0.1, abs=1e-5)
    assert float((found - images).abs().max()) <= 0.1 + 1e-6


def test_noise_is_averaged_where_there_is_any():
    asked = []

    def objective(copies):
        asked.append(copies)
        return brightness

    noise = torch.Generator()
    for defence in (gaussian_noise(0.1), NO_DEFENCE):
        through(defence, "exact", objective, num_draws=4, noise=noise)
    assert asked == [4, 1]
