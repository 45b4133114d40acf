"""A compact checkpoint: a run that is killed and moved ends with the weights of one that is not."""

import multiprocessing
import os
import shutil
import signal

import pytest
import torch

from codefend.lab.encoders.encoder import Encoder
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.losses import PurifierOptions
from codefend.lab.train.online import OnlineOptions, OnlineSource
from codefend.lab.train.pictures import Photographs, PictureMix
from codefend.lab.train.purifier import PurifierTrainer
from codefend.lab.world.compose import World
from codefend.models.purifier.network import build_network

pytestmark = pytest.mark.slow

SETTINGS = LoopSettings(
    num_steps=12,
    learning_rate=1e-3,
    warmup_steps=2,
    weight_decay=0.0,
    ema_decay=0.9,
    num_workers=0,
    checkpoint_steps=2,
)


def edges():
    """An encoder that needs no weights: differences to the right and below, at two scales."""

    def maps_at(images, depths):
        maps = []
        for depth in depths:
            small = torch.nn.functional.avg_pool2d(images, 2**depth)
            across, down = small.diff(dim=3)[:, :, 1:], small.diff(dim=2)[..., 1:]
            maps.append(torch.cat([small[:, :, 1:, 1:], across, down], dim=1))
        return maps

    return Encoder("edges", 2, maps_at)


def source(world, photo_folder, **mix):
    photographs = Photographs.find([photo_folder])
    return OnlineSource(
        PictureMix(world=world, photographs=photographs, size_px=32, batch_size=8, **mix),
        [edges()],
        OnlineOptions(attack_steps=1, adversarial_steps=1),
    )


def train(world_file, photo_folder, folder, settings=SETTINGS, die_at=None, shuffled=None):
    """One run; it kills itself, as a machine would, before it makes the batch ``die_at``."""
    torch.set_num_threads(1)
    torch.manual_seed(shuffled or 0)
    world = World(world_file)
    pictures = source(world, photo_folder)
    if die_at is not None:

        class Deadly(PictureMix):
            def batch(self, step):
                if step == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().batch(step)

        names = PictureMix.__dataclass_fields__
        mix = Deadly(**{name: getattr(pictures.mix, name) for name in names})
        pictures = OnlineSource(mix, pictures.encoders, pictures.options)
    torch.manual_seed(0)
    network = build_network(widths=(16, 16), num_layers=1)
    trainer = PurifierTrainer([pictures], world, folder, settings, seed=4)
    return trainer.train_pixel(network, PurifierOptions()).state_dict()


@pytest.fixture
def photo_folder(world_file):
    return world_file.parent / "photos"


@pytest.mark.slow
def test_killed_three_times_and_moved_once_it_ends_the_same(world_file, photo_folder, tmp_path):
    wanted = train(world_file, photo_folder, tmp_path / "whole")
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    context = multiprocessing.get_context("forkserver")  # what is imported once, all three have
    context.set_forkserver_preload([__name__])
    for number, (folder, step) in enumerate([(first, 3), (first, 7), (second, 9)]):
        if number == 2:  # only the checkpoint goes along
            second.mkdir(parents=True)
            shutil.move(first / "purifier.pt", second / "purifier.pt")
        process = context.Process(
            target=train, args=(world_file, photo_folder, folder, SETTINGS, step)
        )
        process.start()
        process.join(240)
        assert process.exitcode == -signal.SIGKILL
    found = train(world_file, photo_folder, second, shuffled=99)
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) <= 1e-6
    other = train(world_file, photo_folder, tmp_path / "unlike", shuffled=5)
    assert all(torch.equal(other[name], wanted[name]) for name in wanted)


def test_stopping_is_going_on_later(world_file, photo_folder, tmp_path):
    short = SETTINGS.replace(num_steps=6)
    wanted = train(world_file, photo_folder, tmp_path / "whole", short)
    stopped = train(world_file, photo_folder, tmp_path / "parts", short.replace(stop_after=4))
    assert any(not torch.equal(stopped[name], wanted[name]) for name in wanted)
    found = train(world_file, photo_folder, tmp_path / "parts", short)
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) <= 1e-6


def test_the_checkpoint_of_the_shipped_network_is_one_file_below_40_mb(tmp_path):
    from codefend.lab.train.loop import _State

    state = _State(build_network(), SETTINGS, tmp_path / "purifier.pt")
    for parameter in state.trained:
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()
    state.save()
    assert 30e6 < (tmp_path / "purifier.pt").stat().st_size < 40e6
    again = _State(build_network(), SETTINGS, tmp_path / "purifier.pt")
    again.restore()
    for one, other in zip(state.trained, again.trained, strict=True):
        assert torch.equal(one, other)
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(
                state.optimizer.state[one][moment], again.optimizer.state[other][moment]
            )
    assert all(torch.equal(state.average[name], again.average[name]) for name in state.average)
