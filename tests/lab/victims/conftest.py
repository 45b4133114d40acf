"""A victim of each other family, tiny and sensitive."""

import pytest
import torch
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from codefend.lab.victims.victim import Victim
from tests.families import build_family, tile_processor


@pytest.fixture(scope="session", params=["idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl"])
def family_victim(request):
    """A victim of each family; its weights are scaled up so that inputs matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = build_family(request.param)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4.0)
    return Victim.wrap(model, processor, name=request.param)


@pytest.fixture(scope="session")
def smolvlm_processor():
    return tile_processor(SmolVLMImageProcessorPil)
