"""Stock processors for still images: their video half asks for packages that stills do not need.

Who serves a model and who attacks it load its processor here, so that both see the same pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoProcessor, Idefics3Processor, Qwen2VLProcessor

__all__ = ["StillQwen2VLProcessor", "load_processor"]


class StillQwen2VLProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """Qwen2-VL's and Qwen2.5-VL's processor for still images alone.

    ``transformers`` reads the parts of a processor off the parameters of this constructor.
    """

    def __init__(
        self, image_processor: Any, tokenizer: Any, chat_template: str | None = None
    ) -> None:
        """Takes the parts of the stock processor, the video processor left out."""
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


# SmolVLM's own processor also asks for num2words, to count frames; for stills it writes the very
# text that Idefics3's does.
_STILL = {
    "qwen2_vl": StillQwen2VLProcessor,
    "qwen2_5_vl": StillQwen2VLProcessor,
    "smolvlm": Idefics3Processor,
}


def load_processor(source: str | Path, model_type: str) -> Any:
    """Loads the processor of a model, its images resized by Pillow.

    Args:
        source: a directory or a hub id.
        model_type: as the model's configuration says.

    Raises:
        OSError: where there is none.
    """
    return _STILL.get(model_type, AutoProcessor).from_pretrained(source, backend="pil")
