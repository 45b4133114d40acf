"""A tiny victim for the lab's tests; its weights are scaled up so that inputs matter."""

import pytest
import torch

from lab.victims.victim import Victim
from models.mllm.tiny import tiny_mllm


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def victim():
    model, processor = tiny_mllm()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    return Victim.wrap(model, processor, name="tiny")


@pytest.fixture
def photos():
    """Three smooth random images (3, 3, 128, 128) on the 256 levels."""
    coarse = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, size=128, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255
