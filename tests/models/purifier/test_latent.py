import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from codefend.models.purifier.adapters import AdapterSettings, attach_adapters, save_adapters
from codefend.models.purifier.empty_prompt import EmptyPrompt
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_network import (
    build_autoencoder,
    build_latent_network,
    stable_diffusion_schedule,
)
from codefend.models.purifier.latent_step import (
    add_noise,
    decode,
    encode,
    predict_clean,
    timesteps_of,
)
from codefend.models.purifier.loading import load_latent_purifier, load_purifier
from codefend.models.purifier.pipeline import PurificationPipeline


@pytest.fixture(scope="module")
def pipeline() -> LatentPurificationPipeline:
    return LatentPurificationPipeline.tiny()


@pytest.fixture(scope="module")
def base(pipeline: LatentPurificationPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("latent") / "base"
    pipeline.save_pretrained(directory)
    return directory


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapters_on(base: Path, directory: Path, **settings: float) -> tuple[Path, torch.Tensor]:
    """Random adapters for ``base``, and what it makes of ``IMAGES`` with them."""
    tuned = load_latent_purifier(base)
    adapters = attach_adapters(tuned.unet, rank=2)
    with torch.no_grad():
        for parameter in adapters.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2, generator=seeded(3))
    given = AdapterSettings(**{"noise_level": 0.3, **settings})  # type: ignore[arg-type]
    save_adapters(
        adapters, directory, base=str(base), settings=given, empty_prompt=tuned.empty_prompt
    )
    return directory, tuned.purify(IMAGES, seeded(), noise_level=0.3)


IMAGES = torch.rand(2, 3, 22, 30, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (37, 50), (1, 1), (5, 100)])
def test_any_size_comes_back_in_the_same_shape_and_range(
    pipeline: LatentPurificationPipeline, height: int, width: int
) -> None:
    images = torch.rand(2, 3, height, width)
    for result in (pipeline.purify(images, num_steps=2), pipeline.reconstruct(images)):
        assert result.shape == images.shape
        assert result.min() >= 0
        assert result.max() <= 1


def test_noise_is_fresh_unless_a_generator_repeats_it(pipeline: LatentPurificationPipeline) -> None:
    assert not torch.equal(pipeline.purify(IMAGES), pipeline.purify(IMAGES))
    first, second = (pipeline.purify(IMAGES, seeded(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(pipeline.reconstruct(IMAGES), pipeline.reconstruct(IMAGES))


@pytest.mark.parametrize("options", [{"num_steps": 0}, {"noise_level": 0.0}, {"noise_level": 2.0}])
def test_wrong_options_are_refused(
    pipeline: LatentPurificationPipeline, options: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match="must be"):
        pipeline.purify(IMAGES, **options)


def test_gradients_reach_the_image(pipeline: LatentPurificationPipeline) -> None:
    images = IMAGES.clone().requires_grad_(True)
    pipeline.purify_with_gradient(images, seeded(), num_steps=2).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_the_schedule_is_stable_diffusions() -> None:
    """From the released configuration: 0.00085 and 0.012 are β's ends, interpolated in the root."""
    scheduler = stable_diffusion_schedule()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    expected = (1 - betas).cumprod(0)
    assert torch.allclose(scheduler.alphas_cumprod.double(), expected, rtol=1e-4)
    assert timesteps_of(scheduler, 0.2, 3).tolist() == [199] * 3
    assert timesteps_of(scheduler, torch.tensor([1e-6, 0.2, 1.0]), 3).tolist() == [0, 199, 999]


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_is_right_gives_back_the_clean_latent(predicts: str) -> None:
    scheduler = DDPMScheduler.from_config(
        stable_diffusion_schedule().config, prediction_type=predicts
    )
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=seeded()).unbind()
    timesteps = torch.tensor([10, 200, 900])
    kept = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    right = {
        "epsilon": noise,
        "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * clean,
        "sample": clean,
    }[predicts]

    def network(*_: object, **__: object) -> tuple[torch.Tensor]:
        return (right,)

    noisy = add_noise(scheduler, clean, timesteps, noise)
    assert torch.allclose(noisy, scheduler.add_noise(clean, noise, timesteps), atol=1e-6)
    predicted = predict_clean(network, scheduler, noisy, timesteps, torch.zeros(3, 1, 1))
    assert torch.allclose(predicted, clean, atol=1e-3)


def test_little_noise_is_scaled_right_in_half_precision() -> None:
    scheduler, first = stable_diffusion_schedule(), torch.tensor([0])
    still = torch.zeros(1, 1, 1, 1, dtype=torch.float16)
    expected = float((1 - scheduler.alphas_cumprod[0]).sqrt())
    scaled = float(add_noise(scheduler, still, first, torch.ones_like(still)))
    assert scaled == pytest.approx(expected, rel=1e-3)


def test_an_unknown_prediction_type_is_refused(pipeline: LatentPurificationPipeline) -> None:
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, prediction_type="score")
    latents = torch.zeros(1, 4, 4, 4)
    with pytest.raises(ValueError, match="score"):
        predict_clean(
            pipeline.unet, scheduler, latents, torch.tensor([3]), pipeline.empty_prompt(1)
        )


def test_latents_are_scaled_both_ways() -> None:
    autoencoder = build_autoencoder(widths=(8, 16), latent_channels=4).eval()
    images = torch.rand(1, 3, 16, 16, generator=seeded())
    plain, reconstructed = (
        encode(autoencoder, images),
        decode(autoencoder, encode(autoencoder, images)),
    )
    autoencoder.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    latents = encode(autoencoder, images)
    assert torch.allclose(latents, (plain - 0.25) * 0.5, atol=1e-6)
    assert torch.allclose(decode(autoencoder, latents), reconstructed, atol=1e-5)


def test_a_saved_pipeline_gives_the_same_images(
    pipeline: LatentPurificationPipeline, base: Path
) -> None:
    loaded = load_purifier(base)
    assert type(loaded) is LatentPurificationPipeline
    assert torch.equal(loaded.purify(IMAGES, seeded()), pipeline.purify(IMAGES, seeded()))
    assert loaded.config.name == "tiny-latent"


def test_the_class_follows_from_the_index(base: Path, tmp_path: Path) -> None:
    PurificationPipeline.tiny().save_pretrained(tmp_path)
    assert type(load_purifier(tmp_path)) is PurificationPipeline
    assert type(load_purifier(base)) is LatentPurificationPipeline


def test_half_precision_is_of_every_part(base: Path) -> None:
    loaded = load_purifier(base, dtype=torch.bfloat16)
    assert {p.dtype for part in (loaded.vae, loaded.unet) for p in part.parameters()} == {
        torch.bfloat16
    }
    assert loaded.purify(IMAGES).dtype == torch.float32


def test_fresh_adapters_change_nothing_and_alone_are_trained(base: Path) -> None:
    tuned = load_latent_purifier(base)
    before = tuned.purify(IMAGES, seeded())
    adapters = attach_adapters(tuned.unet, rank=2)
    assert torch.allclose(tuned.purify(IMAGES, seeded()), before, atol=1e-6)
    trained = {name for name, p in adapters.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    with pytest.raises(ValueError, match="rank"):
        attach_adapters(tuned.unet, rank=0)


def test_fused_adapters_compute_what_attached_ones_did(
    pipeline: LatentPurificationPipeline, base: Path, tmp_path: Path
) -> None:
    directory, expected = adapters_on(base, tmp_path / "adapters", version="7")  # type: ignore[arg-type]
    assert not torch.allclose(
        pipeline.purify(IMAGES, seeded(), noise_level=0.3), expected, atol=1e-2
    )
    for loaded in (load_purifier(base, directory), load_purifier(directory)):
        assert torch.allclose(loaded.purify(IMAGES, seeded()), expected, atol=1e-4)
        assert (loaded.config.noise_level, loaded.config.version) == (0.3, "7")
        assert type(loaded.unet) is UNet2DConditionModel
        assert not any("lora" in name for name, _ in loaded.unet.named_parameters())


def test_adapters_without_settings_are_served_as_the_base_is(base: Path, tmp_path: Path) -> None:
    directory, _ = adapters_on(base, tmp_path / "adapters")
    (directory / "purifier.json").unlink()
    assert load_purifier(base, directory).config.noise_level == 0.1
    (directory / "purifier.json").write_text('{"strength": 1}')
    with pytest.raises(ValueError, match="malformed"):
        load_purifier(base, directory)


def test_adapters_where_none_fit_are_refused(base: Path, tmp_path: Path) -> None:
    directory, _ = adapters_on(base, tmp_path / "adapters")
    PurificationPipeline.tiny().save_pretrained(tmp_path / "pixel")
    with pytest.raises(ValueError, match="pixel"):
        load_purifier(tmp_path / "pixel", directory)
    other = LatentPurificationPipeline.tiny()
    other.register_modules(
        unet=build_latent_network(widths=(32, 32), num_layers=1, latent_channels=4, prompt_width=8)
    )
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="fit"):
        load_purifier(tmp_path / "other", directory)


def test_adapters_whose_base_is_gone_say_so(base: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    directory, _ = adapters_on(moved, tmp_path / "adapters")
    shutil.rmtree(moved)
    with pytest.raises(FileNotFoundError, match="base"):
        load_purifier(directory)
    assert load_purifier(base, directory).config.noise_level == 0.3


def test_no_pickle_is_read(base: Path, tmp_path: Path) -> None:
    directory, _ = adapters_on(base, tmp_path / "adapters")
    with pytest.raises(FileNotFoundError, match="no adapters"):
        load_purifier(base, tmp_path / "missing")
    weights = directory / "adapter_model.safetensors"
    torch.save({"x": torch.zeros(1)}, directory / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_purifier(base, directory)
    pickled = tmp_path / "pickled"
    shutil.copytree(base, pickled)
    network = load_latent_purifier(base).unet
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(network.state_dict(), pickled / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_purifier(pickled)


def _text_encoder(directory: Path, width: int) -> CLIPTextModel:
    """A CLIP text encoder and a tokenizer of four tokens, as Stable Diffusion keeps them."""
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "b</w>": 3}
    tokenizer = CLIPTokenizer(vocab=words, merges=[], model_max_length=7)
    tokenizer.save_pretrained(directory / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=4,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=7,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    encoder = CLIPTextModel(config).eval()
    encoder.save_pretrained(directory / "text_encoder")
    return encoder


@pytest.fixture(scope="module")
def stable_diffusion(
    pipeline: LatentPurificationPipeline, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CLIPTextModel]:
    """A directory as ``StableDiffusionPipeline.save_pretrained`` leaves it."""
    directory = tmp_path_factory.mktemp("stable-diffusion")
    pipeline.vae.save_pretrained(directory / "vae")
    pipeline.unet.save_pretrained(directory / "unet")
    PNDMScheduler.from_config(pipeline.scheduler.config, skip_prk_steps=True).save_pretrained(
        directory / "scheduler"
    )
    encoder = _text_encoder(directory, width=8)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "requires_safety_checker": True,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory, encoder


def test_stable_diffusion_gives_its_parts_and_its_empty_prompt(
    stable_diffusion: tuple[Path, CLIPTextModel], pipeline: LatentPurificationPipeline
) -> None:
    directory, encoder = stable_diffusion
    loaded = load_latent_purifier(directory)
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1, 1, 1, 1, 1, 1]])).last_hidden_state
    assert torch.allclose(loaded.empty_prompt.embedding, expected, atol=1e-6)
    assert torch.equal(loaded.scheduler.alphas_cumprod, pipeline.scheduler.alphas_cumprod)
    assert torch.equal(loaded.reconstruct(IMAGES), pipeline.reconstruct(IMAGES))
    assert loaded.purify(IMAGES).shape == IMAGES.shape


def test_adapters_bring_the_prompt_so_that_no_text_encoder_is_needed(
    stable_diffusion: tuple[Path, CLIPTextModel], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(stable_diffusion[0], bare)
    directory, expected = adapters_on(bare, tmp_path / "adapters")
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(bare / part)
    assert torch.allclose(
        load_purifier(bare, directory).purify(IMAGES, seeded()), expected, atol=1e-4
    )
    index = json.loads((bare / "model_index.json").read_text())
    (bare / "model_index.json").write_text(json.dumps({**index, "text_encoder": [None, None]}))
    with pytest.raises(ValueError, match="text encoder"):
        load_purifier(bare)


def test_a_tiny_autoencoder_takes_the_place_of_the_full_one(base: Path, tmp_path: Path) -> None:
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )
    tiny.save_pretrained(tmp_path / "tiny")
    loaded = load_latent_purifier(base, autoencoder=tmp_path / "tiny")
    assert isinstance(loaded.vae, AutoencoderTiny)
    assert loaded.padding_multiple == 4
    assert loaded.purify(IMAGES).shape == IMAGES.shape
    directory, _ = adapters_on(base, tmp_path / "adapters", autoencoder=str(tmp_path / "tiny"))  # type: ignore[arg-type]
    assert isinstance(load_latent_purifier(base, directory).vae, AutoencoderTiny)


def test_what_cannot_purify_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing"):
        load_purifier(tmp_path / "nothing")
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline", "vae": ["d", "A"]}')
    with pytest.raises(ValueError, match="neither"):
        load_purifier(tmp_path)
    with pytest.raises(ValueError, match="AutoencoderKL"):
        load_latent_purifier(base, autoencoder=base / "unet")


def test_an_empty_prompt_is_the_same_for_every_image() -> None:
    prompt = EmptyPrompt.holding(torch.arange(6.0).view(1, 2, 3))
    assert prompt(4).shape == (4, 2, 3)
    assert torch.equal(prompt(4)[3], prompt.embedding[0])
