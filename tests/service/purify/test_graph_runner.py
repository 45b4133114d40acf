"""Graphs on a host: what is captured, and when; that padding and reused buffers change nothing."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from codefend.models.purifier.graph import PurifierGraph
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.network import build_network
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.strengths import STRENGTHS, Strength
from codefend.service.purify import graph_runner
from codefend.service.purify.engine import GraphLimits, NetworkEngine
from codefend.service.purify.graph_runner import GraphRunner, GraphShape, batch_sizes
from codefend.service.purify.torch_runner import TorchRunner
from codefend.service.stages import EngineFacts
from tests.service.pictures import picture
from tests.service.purify.host_device import HostDevice

LIMITS = GraphLimits(4, 4 * 64 * 128, memory_share=0.5, start_sides_px=(64, 128))
WIDER = GraphLimits(8, 8 * 64 * 64, memory_share=0.5, start_sides_px=(64,))


def two_steps(kind):
    pipeline = kind.tiny(1)
    pipeline.register_to_config(num_steps=2)
    return pipeline


def runner_of(pipeline=None, device=None, limits=LIMITS):
    graph = PurifierGraph(pipeline or PurificationPipeline.tiny(1))
    return GraphRunner(TorchRunner(graph, torch.device("cpu")), device or HostDevice(), limits)


def pictures(num_images, height=64, width=64):
    return np.stack([picture(height, width, seed) for seed in range(num_images)])


def captured_shapes(runner):
    return [shape for shape, captured in runner._graphs.items() if captured is not None]


@pytest.mark.parametrize(
    ("capacity", "sizes"),
    [
        (0, ()),
        (1, (1,)),
        (2, (1, 2)),
        (5, (1, 2, 3, 4, 5)),
        (8, (1, 2, 3, 4, 6, 8)),
        (32, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)),
    ],
)
def test_few_sizes_pad_little(capacity, sizes):
    assert batch_sizes(capacity) == sizes
    for number in range(1, capacity + 1):
        assert min(size for size in sizes if size >= number) <= number * 3 / 2


def test_at_the_start_the_largest_is_captured_first():
    device = HostDevice()
    runner = runner_of(device=device)
    assert captured_shapes(runner) == [
        (2, 128, 128),
        (4, 64, 64),
        (1, 128, 128),
        (3, 64, 64),
        (2, 64, 64),
        (1, 64, 64),
    ]
    assert device.told == ["warm up", "capture"] * 6


@pytest.mark.parametrize("kind", [PurificationPipeline, LatentPurificationPipeline])
@pytest.mark.parametrize("num_images", [1, 2, 3, 4])
def test_a_replay_is_what_an_eager_run_gives(kind, num_images):
    runner = runner_of(two_steps(kind))
    images = pictures(num_images)
    (shape,) = [shape for shape in captured_shapes(runner) if shape == (num_images, 64, 64)]
    purified, total = runner._replay(runner._graphs[shape], shape, images, seed=7)
    expected, expected_total = runner._eager.purify(images, seed=7)
    assert np.abs(purified.astype(int) - expected).max() <= 1
    assert total == pytest.approx(expected_total, rel=1e-4)


def test_noise_is_the_seeds_in_each_replay():
    runner = runner_of()
    images = pictures(2)
    first, again, other = (runner.purify(images, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("strength", list(Strength))
def test_one_graph_serves_every_strength(strength, monkeypatch):
    device = HostDevice()
    runner = runner_of(device=device)
    facts = EngineFacts(**runner._eager.graph.describe(), device="cpu")
    monkeypatch.setattr("codefend.service.purify.engine.secrets.randbits", lambda _: 7)
    device.told.clear()
    purified = NetworkEngine(runner, facts, None).purify(pictures(2), strength)
    assert device.told.count("replay") == STRENGTHS[strength].times_steps
    expected = NetworkEngine(runner._eager, facts, None).purify(pictures(2), strength)
    assert np.abs(purified.astype(int) - expected).max() <= STRENGTHS[strength].times_steps


def test_padding_never_alters_real_images(monkeypatch):
    """Whatever lies in the rows beyond: those of the batch before, or anything else."""
    runner = runner_of(limits=WIDER)
    images = pictures(5)
    runner.purify(pictures(8)[::-1], seed=3)
    after_others, total = runner.purify(images, seed=9)
    monkeypatch.setattr(torch.Tensor, "zero_", lambda self: self.fill_(255))
    beside_white, other_total = runner.purify(images, seed=9)
    assert np.array_equal(after_others, beside_white)
    assert total != other_total, "the padding was there, and was other than before"


def test_a_batch_is_padded_to_the_next_size_that_is_captured():
    device = HostDevice()
    runner = runner_of(device=device, limits=WIDER)
    device.told.clear()
    purified, _ = runner.purify(pictures(5), seed=0)
    assert purified.shape == (5, 64, 64, 3)
    assert device.told == ["upload"] * 5 + ["join", "replay", "download"]


def test_results_outlive_the_next_batch():
    runner = runner_of()
    first, _ = runner.purify(pictures(2), seed=1)
    kept = first.copy()
    runner.purify(pictures(4), seed=2)
    assert np.array_equal(first, kept)


def test_buffers_are_the_same_for_all_shapes():
    runner = runner_of()
    buffers = runner._buffers
    small, large = (buffers.views(GraphShape(n, 64, 64)) for n in (1, 4))
    for few, many in zip(small, large, strict=True):
        assert few.data_ptr() == many.data_ptr()
    assert large.noise.shape == (1, *runner._eager.graph.purifier.noise_shape(4, 64, 64))


def test_another_bucket_is_captured_when_it_is_met_again():
    device = HostDevice()
    runner = runner_of(device=device)
    images = pictures(2, 64, 128)
    device.told.clear()
    runner.purify(images, seed=0)
    assert device.told == [], "eagerly"
    for _ in range(2):
        runner.purify(images, seed=0)
    replay = ["upload", "upload", "join", "replay", "download"]
    assert device.told == ["warm up", "capture", *replay, *replay]


def test_what_is_larger_than_a_batch_may_be_runs_eagerly():
    device = HostDevice()
    runner = runner_of(device=device)
    device.told.clear()
    for images in (pictures(5), pictures(1, 256, 192)):
        for _ in range(3):
            assert runner.purify(images, seed=0)[0].shape == images.shape
    assert device.told == []


def test_sides_that_the_network_would_pad_run_eagerly():
    deep = PurificationPipeline(build_network(widths=(16,) * 7, num_layers=1), name="deep")
    runner = runner_of(deep)
    assert captured_shapes(runner) == [(2, 128, 128), (1, 128, 128)]
    images = pictures(1)
    for _ in range(3):
        assert runner.purify(images, seed=0)[0].shape == images.shape


def test_shapes_beyond_the_ceiling_run_eagerly():
    device = HostDevice(working_bytes=1 << 29)
    runner = runner_of(device=device)  # at the ceiling, not above it
    assert len(captured_shapes(runner)) == 6
    device = HostDevice(working_bytes=(1 << 29) + 1)
    runner = runner_of(device=device)
    assert captured_shapes(runner) == []
    assert device.told == ["warm up", "release"] * 6
    assert runner.purify(pictures(2), seed=0)[0].shape == (2, 64, 64, 3)
    assert "replay" not in device.told


def test_no_graph_is_captured_once_the_memory_is_taken():
    device = HostDevice(graph_bytes=200 << 20)
    runner = runner_of(device=device)
    assert captured_shapes(runner) == [(2, 128, 128), (4, 64, 64), (1, 128, 128)]
    assert runner.describe() == {
        "dtype": "float32",
        "graphs": 3,
        "graph_memory_mib": 600,
        "graph_memory_ceiling_mib": 512,
    }


def test_no_share_is_no_graph():
    assert captured_shapes(runner_of(limits=replace(LIMITS, memory_share=0))) == []


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no memory is left"), RuntimeError("operation not permitted")],
)
def test_what_cannot_be_captured_runs_eagerly_for_good(error, caplog):
    device = HostDevice(fails=error)
    with caplog.at_level(logging.WARNING):
        runner = runner_of(device=device)
    assert str(error) in caplog.text
    assert captured_shapes(runner) == []
    num_tries = device.told.count("capture")
    images = pictures(2)
    for _ in range(3):
        purified, _ = runner.purify(images, seed=5)
    assert np.array_equal(purified, runner._eager.purify(images, seed=5)[0])
    assert device.told.count("capture") == num_tries == device.told.count("release")


def test_strangers_sizes_make_no_end_of_graphs(monkeypatch):
    monkeypatch.setattr(graph_runner, "MOST_GRAPHS", 7)
    device = HostDevice()
    runner = runner_of(device=device)
    for width in (128, 192, 256):
        for _ in range(3):
            runner.purify(pictures(1, 64, width), seed=0)
    assert captured_shapes(runner)[6:] == [(1, 64, 128)]


def test_a_start_captures_no_longer_than_it_may(monkeypatch):
    monkeypatch.setattr(graph_runner, "MOST_START_S", 0)
    assert captured_shapes(runner_of()) == []


def test_what_it_holds_stands_in_the_log(caplog):
    with caplog.at_level(logging.INFO):
        runner_of()
    assert "captured 6 of 6 shapes" in caplog.text
    assert caplog.records[-1].fields["graph_memory_ceiling_mib"] == 512


def test_what_is_no_number_shows_in_the_sum():
    spoiled = PurificationPipeline.tiny(0)
    with torch.no_grad():
        spoiled.unet.conv_out.bias[0] = float("nan")
    _, total = runner_of(spoiled).purify(pictures(1), seed=0)
    assert np.isnan(total)
