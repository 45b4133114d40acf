"""In which precision the laboratory multiplies, by device: training and attacks ask here."""

import torch

__all__ = ["compute_dtype", "mixed_precision"]


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def mixed_precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Multiplies in ``dtype`` within the block; does nothing for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
