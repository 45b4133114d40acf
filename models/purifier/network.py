"""The pixel purifier's network: a ``UNet2DModel`` behind a pixel-unshuffle, without attention."""

from __future__ import annotations

from diffusers import UNet2DModel
from torch import nn

__all__ = ["build_network"]


def build_network(
    *,
    widths: tuple[int, ...] = (32, 64, 128),
    num_layers: int = 2,
    unshuffle: int = 2,
) -> UNet2DModel:
    """A U-Net whose output starts at zero, so that an untrained purifier changes nothing.

    Args:
        widths: Channels at each resolution; each further one has half the side.
        num_layers: Residual blocks a resolution on the way down (one more on the way up).
        unshuffle: Pixels a side that are folded into channels at the entrance
            (FFDNet, Zhang et al. 2018). The first width must be well above 3 × its square:
            narrower, the network could not pass its own input on.
    """
    network = UNet2DModel(
        in_channels=3 * unshuffle**2,
        out_channels=3 * unshuffle**2,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        layers_per_block=num_layers,
        add_attention=False,
        norm_num_groups=8,
        time_embedding_type="positional",
    )
    nn.init.zeros_(network.conv_out.weight)
    nn.init.zeros_(network.conv_out.bias)
    return network
