"""What a stock image processor does to an image, differentiably; attacks look through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from codefend.lab.victims.twins.patches import Patches
from codefend.lab.victims.twins.resize_crop import ResizeCrop
from codefend.lab.victims.twins.tiles import Tiles

__all__ = ["Preprocess", "Twin"]


class Twin(Protocol):
    """One way of sizing images."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) float in [0, 1] to what the stock processor gives, by its names."""
        ...


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The differentiable twin of a stock image processor.

    Attributes:
        twin: the way of sizing images that the processor has.
    """

    twin: Twin

    @classmethod
    def from_processor(cls, image_processor: Any) -> Preprocess:
        """Picks the twin of a stock image processor and reads its settings.

        Idefics3 and SmolVLM cut tiles; Qwen2-VL and its successors lay patches flat; CLIP, SigLIP,
        ViT and LLaVA resize and crop, and so is every other processor taken whose settings say so.

        Raises:
            ValueError: where the processor does something that has no twin, or resizes with
                torchvision, whose result is another.
        """
        backend = getattr(image_processor, "backend", "pil")
        if backend != "pil":
            name = type(image_processor).__name__
            raise ValueError(f'{name} resizes with {backend}: load it with backend="pil"')
        if isinstance(image_processor, Idefics3ImageProcessorPil | SmolVLMImageProcessorPil):
            return cls(Tiles.from_processor(image_processor))
        if isinstance(image_processor, Qwen2VLImageProcessorPil):
            return cls(Patches.from_processor(image_processor))
        return cls(ResizeCrop.from_processor(image_processor))

    def inputs(self, images: Tensor) -> dict[str, Tensor]:
        """Turns images into all that the model takes of them, keeping gradients.

        Args:
            images: (B, 3, H, W) float in [0, 1].

        Returns:
            ``pixel_values`` and what goes with them, by the stock processor's names, in its
            shapes; equal to the stock processor's for images that lie on the 256 levels.
        """
        return self.twin(images)

    def __call__(self, images: Tensor) -> Tensor:
        """``pixel_values`` alone, in the stock processor's shape and the images' dtype."""
        return self.inputs(images)["pixel_values"]
