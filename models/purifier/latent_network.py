"""Small networks in the classes of Stable Diffusion: what stands for it where no hub is reached."""

from __future__ import annotations

from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel

__all__ = [
    "build_autoencoder",
    "build_latent_network",
    "build_tiny_autoencoder",
    "stable_diffusion_schedule",
]


def build_autoencoder(
    *,
    widths: tuple[int, ...] = (16, 40, 80),
    num_layers: int = 1,
    latent_channels: int = 8,
) -> AutoencoderKL:
    """A convolutional autoencoder; each width after the first halves the side.

    Args:
        widths: Channels at each resolution.
        num_layers: Residual blocks a resolution in the encoder (one more in the decoder).
        latent_channels: Of a latent.
    """
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=num_layers,
        latent_channels=latent_channels,
        norm_num_groups=8,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def build_tiny_autoencoder(
    *, width: int = 32, num_halvings: int = 2, num_blocks: int = 2, latent_channels: int = 8
) -> AutoencoderTiny:
    """A tiny autoencoder without normalisation: it learns colours in far fewer steps.

    Args:
        width: Channels at every resolution.
        num_halvings: How often it halves the side.
        num_blocks: Residual blocks a resolution; one at the full one.
        latent_channels: Of a latent.
    """
    deeper = (num_blocks,) * num_halvings
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * (num_halvings + 1),
        decoder_block_out_channels=(width,) * (num_halvings + 1),
        num_encoder_blocks=(1, *deeper),
        num_decoder_blocks=(*deeper, 1),
        latent_channels=latent_channels,
    )


def build_latent_network(
    *,
    widths: tuple[int, ...] = (48, 96),
    num_layers: int = 1,
    latent_channels: int = 8,
    prompt_width: int = 64,
) -> UNet2DConditionModel:
    """A U-Net on latents with cross attention below its first resolution.

    Args:
        widths: Channels at each resolution; each further one has half the side.
        num_layers: Residual blocks a resolution on the way down (one more on the way up).
        latent_channels: Of a latent.
        prompt_width: Of one token of the prompt.
    """
    num_deeper = len(widths) - 1
    return UNet2DConditionModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * num_deeper,
        up_block_types=("CrossAttnUpBlock2D",) * num_deeper + ("UpBlock2D",),
        layers_per_block=num_layers,
        cross_attention_dim=prompt_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def stable_diffusion_schedule() -> DDPMScheduler:
    """The noise schedule of Stable Diffusion: 1,000 steps, β from 0.00085 to 0.012 in its root."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
    )
