"""The benchmark of the engine: every mode it has on a CPU, and the rows of a GPU by stand-ins."""

from dataclasses import replace

import pytest
import torch

from benchmarks import engine
from benchmarks.modes import (
    RANDOM_LATENT,
    TINY_LATENT,
    EngineMode,
    Subject,
    load_network,
    make_timer,
)
from benchmarks.report import Figure
from benchmarks.roofline import DeviceLimits
from codefend.models.purifier.graph import PurifierGraph
from codefend.service.processes.child import ask_nothing


@pytest.mark.parametrize("mode", [EngineMode.EAGER, EngineMode.STOCK_FLOAT32])
def test_a_mode_is_timed(mode):
    answer, facts = make_timer(Subject(mode, TINY_LATENT, "cpu"))
    assert facts["device"] == "cpu"
    told, _ = answer({"images": 2, "side_px": 64}, b"", ask_nothing)
    assert told["wall_s"] > 0
    assert told["cpu_s"] > 0
    assert answer({}, b"", ask_nothing)[0]["peak_mib"] > 10


def test_random_weights_are_of_stable_diffusions_size():
    purifier = load_network(RANDOM_LATENT, torch.device("meta"), torch.float16)
    num_parameters = sum(parameter.numel() for parameter in purifier.unet.parameters())
    assert num_parameters == 859_520_964
    assert PurifierGraph(purifier).noise_shape(1, 512, 512) == (1, 1, 4, 64, 64)


class Worker:
    """Takes as long as it is said to."""

    def __init__(self, seconds):
        self.seconds = seconds

    def call(self, meta, *_):
        return {"wall_s": self.seconds * meta["images"], "cpu_s": 0.001}, b""


def rows_of(turns, seconds, batch):
    workers = {mode: Worker(seconds[mode]) for mode in turns.modes}
    limits = DeviceLimits(flops_per_s=1e15, bytes_per_s=1e12)
    rows = engine._compare(turns, workers, batch, 3, limits)
    return {row.name: row for row in rows}


@pytest.mark.parametrize(("number", "batch"), [(0, (1, 256)), (1, (1, 512))])
def test_a_gpus_rows_are_beside_diffusers_and_the_roofline(number, batch):
    turns = engine._rounds(TINY_LATENT, "cuda:0")[number]
    if number:
        turns = replace(turns, network=TINY_LATENT)
    seconds = dict.fromkeys(turns.modes, 0.01) | {
        EngineMode.GRAPHS: 0.002,
        EngineMode.STOCK_FLOAT32: 0.03,
    }
    rows = rows_of(turns, seconds, batch)
    size = f"{batch[0]}x{batch[1]}x{batch[1]}"
    graphs = rows[f"{turns.label}graphs_{size}_seconds"]
    assert (graphs.value, graphs.baseline, graphs.ratio) == (0.002, 0.01, 0.2)
    assert rows[f"{turns.label}graphs_{size}_images_per_second"].value == 500
    assert rows[f"{turns.label}stock_float32_{size}_seconds"].ratio == 3
    assert rows[f"{turns.label}speed_up_{size}"].value == 5
    bound_s = rows[f"{turns.label}roofline_{size}_seconds"].value
    assert rows[f"{turns.label}graphs_{size}_of_roofline"].value == pytest.approx(bound_s / 0.002)
    assert f"{turns.label}stock_float32_{size}_of_roofline" not in rows


def test_rows_that_a_target_is_set_for_say_so():
    names = set()
    for turns in engine._rounds(TINY_LATENT, "cuda:0"):
        small = replace(turns, network=TINY_LATENT)
        for batch in turns.batches:
            seconds = dict.fromkeys(turns.modes, 1e-3)
            names |= set(rows_of(small, seconds, batch))
    assert set(engine.TARGETS) <= names
    row = engine._with_target(Figure("speed_up_1x256x256", {"runs": 1}, 4.0, "times"))
    assert row.config == {"runs": 1, "target": ">= 3"}


def test_compiling_takes_long_and_is_timed_on_few_batches():
    pixel, latent = engine._rounds("x", "cuda:0")
    assert EngineMode.COMPILED in pixel.modes_on((32, 256))
    assert EngineMode.COMPILED not in pixel.modes_on((8, 512))
    assert EngineMode.COMPILED not in latent.modes_on((4, 512))


def test_a_cpus_rows_are_beside_the_eager_engine():
    (turns,) = engine._rounds(TINY_LATENT, "cpu")
    rows = rows_of(turns, dict.fromkeys(turns.modes, 0.5), (1, 128))
    assert rows["eager_1x128x128_seconds"].ratio == 1
    assert not any(name.startswith("speed_up") for name in rows)
