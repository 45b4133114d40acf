"""The bound that a device puts on a network, by the costs of its layers."""

import pytest
import torch
from torch import nn

from benchmarks.roofline import DeviceLimits, LayerCost, measure_limits, roofline_s, walk_layers
from codefend.models.purifier.graph import PurifierGraph
from codefend.models.purifier.loading import load_purifier
from codefend.service.settings import Settings


def costs(network, *inputs):
    return {(cost.name, cost.flops, cost.num_bytes) for cost in walk_layers(network, *inputs)}


def test_costs_are_those_of_the_arithmetic():
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    image = torch.zeros(2, 3, 10, 20)
    flops = 2 * (2 * 10 * 20) * 8 * 3 * 9
    num_bytes = 4 * (2 * 3 * 200 + 8 * 3 * 9 + 2 * 8 * 200)
    assert costs(convolution, image) == {("convolution", flops, num_bytes)}
    rows = torch.zeros(5, 4)
    assert costs(nn.Linear(4, 6, bias=False), rows) == {
        ("mm", 2 * 5 * 4 * 6, 4 * (5 * 4 + 4 * 6 + 5 * 6))
    }


def test_halves_move_half_the_bytes_and_views_move_none():
    rows = torch.zeros(5, 4)
    assert costs(nn.SiLU(), rows) == {("silu", 0, 4 * 2 * 20)}
    assert costs(nn.SiLU(), rows.half()) == {("silu", 0, 2 * 2 * 20)}
    assert walk_layers(nn.Flatten(), torch.zeros(5, 4, 3)) == []


class Attention(nn.Module):
    def forward(self, query, key, value):
        return nn.functional.scaled_dot_product_attention(query, key, value)


def test_attention_writes_no_matrix_of_weights():
    tensors = torch.zeros(3, 2, 4, 100, 8).unbind()
    flops = 2 * 2 * (2 * 4) * 100 * 100 * 8
    layers = walk_layers(Attention(), *tensors)
    assert [(cost.flops, cost.num_bytes) for cost in layers] == [(flops, 4 * 4 * 2 * 4 * 100 * 8)]
    assert not layers[0].is_fusible


def test_without_computing_it_costs_the_same():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.SiLU())
    image = torch.zeros(1, 3, 16, 16)
    assert costs(network, image) == costs(network.to("meta"), image.to("meta"))


def test_the_bound_takes_the_scarcer_of_the_two_layer_by_layer():
    limits = DeviceLimits(flops_per_s=100, bytes_per_s=10)
    product = LayerCost("mm", 300, 10, is_fusible=False)
    norm = LayerCost("native_group_norm", 0, 20, is_fusible=False)
    activation = LayerCost("silu", 0, 40, is_fusible=True)
    assert roofline_s([product, norm, activation], limits) == 3 + 2
    assert roofline_s([product, norm, activation], limits, fused=False) == 3 + 2 + 4


def test_what_a_neighbour_can_do_is_fusible():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.SiLU(), nn.Linear(14, 2))
    layers = walk_layers(network, torch.zeros(1, 3, 16, 16))
    assert {layer.name for layer in layers if layer.is_fusible} == {"silu"}
    assert {layer.name for layer in layers} >= {"convolution", "native_group_norm", "addmm"}


def test_the_shipped_purifier_costs_what_is_published():
    graph = PurifierGraph(load_purifier(Settings().purifier)).to("meta")
    pixels = torch.zeros((1, 512, 512, 3), dtype=torch.uint8, device="meta")
    noise = torch.zeros((1, *graph.purifier.noise_shape(1, 512, 512)), device="meta")
    total = sum(layer.flops for layer in walk_layers(graph, pixels, noise))
    assert total == pytest.approx(65.8e9, rel=1e-3)


def test_a_device_is_measured(monkeypatch):
    monkeypatch.setattr("benchmarks.roofline._MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr("benchmarks.roofline._COPIED_BYTES", {"cpu": 4096})
    limits = measure_limits(torch.device("cpu"), torch.float32)
    assert limits.flops_per_s > 1e6
    assert limits.bytes_per_s > 1e6
