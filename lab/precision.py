"""In which precision the laboratory multiplies, by device: training and attacks ask here."""

import torch

__all__ = ["compute_dtype"]


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
