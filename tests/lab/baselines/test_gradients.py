"""How gradients get through defences: the value is the defence's own, the gradient as named."""

from pathlib import Path

import pytest
import torch

from codefend.lab.baselines.compression import bit_depth, jpeg, smooth_jpeg
from codefend.lab.baselines.defence import recomputed, straight_through, with_gradient_of
from codefend.lab.baselines.filters import blur, gaussian_noise, median
from codefend.lab.baselines.purifiers import load_purifier, purifying, purifying_between, round_trip
from codefend.lab.errors import LabError
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.purifier import run_directly

TINY = PurificationPipeline.tiny()
LATENT = LatentPurificationPipeline.tiny()
DEFENCES = [
    blur(1.0),
    median(3),
    jpeg(40),
    bit_depth(3),
    gaussian_noise(0.05),
    purifying("purifier", TINY, "0" * 64, noise_level=0.1, num_steps=3),
    purifying("purifier", TINY, "0" * 64, noise_level=0.1, num_steps=1),
    purifying_between("purifier", TINY, "0" * 64, 0.05, 0.2),
    round_trip(LATENT, "0" * 64),
    purifying("purifier", LATENT, "0" * 64, noise_level=0.1, num_steps=2),
    purifying("purifier", LATENT, "0" * 64, noise_level=0.1, num_steps=1),
]
CASES = [(defence, name) for defence in DEFENCES for name in defence.gradient_paths]


@pytest.fixture
def images():
    # 22 x 30: neither side is a multiple of the padding.
    return torch.rand(2, 3, 22, 30, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("defence", "name"), CASES, ids=[f"{d.name} {d.setting[:30]} {name}" for d, name in CASES]
)
def test_every_passage_returns_bit_for_bit_what_is_deployed(defence, name, images):
    """Also the replayed noise: one generator state, one and the same forward pass."""
    leaf = images.clone().requires_grad_(True)
    seen = defence.gradient_paths[name](leaf, seeded())
    assert torch.equal(seen, defence.apply(images, seeded()))
    (gradient,) = torch.autograd.grad(seen.square().sum(), leaf)
    assert gradient.abs().sum() > 0


def test_purifiers_have_all_three():
    assert set(DEFENCES[-1].gradient_paths) == {"exact", "bpda", "surrogate"}


@pytest.mark.parametrize("defence", [jpeg(40), bit_depth(3)])
def test_bpda_passes_the_gradient_of_the_identity(defence, images):
    leaf = images.clone().requires_grad_(True)
    weights = torch.rand(images.shape, generator=seeded(1))
    seen = defence.gradient_paths["bpda"](leaf, seeded())
    (gradient,) = torch.autograd.grad((seen * weights).sum(), leaf)
    assert torch.equal(gradient, weights)


def test_smooth_jpeg_is_nearly_jpeg():
    coarse = torch.rand(2, 3, 6, 8, generator=seeded())
    images = torch.nn.functional.interpolate(coarse, size=(41, 60), mode="bicubic").clamp(0, 1)
    real = jpeg(40).apply(images, seeded())
    near = (smooth_jpeg(images, 40) - real).abs().mean()
    assert near < 0.5 * (images - real).abs().mean()
    assert near < 2 / 255


@pytest.mark.parametrize(("quality", "is_kept"), [(80, False), (95, True)])
def test_smooth_jpeg_keeps_the_colours_that_jpeg_keeps(quality, is_kept):
    """Columns that differ in colour alone: halved, they are one grey."""
    images = torch.full((1, 3, 32, 32), 0.5)
    images[:, 0, :, ::2] += 0.299
    images[:, 1, :, ::2] -= 0.1523
    for seen in (jpeg(quality).apply(images, seeded()), smooth_jpeg(images, quality)):
        contrast = (seen[:, 0, :, ::2] - seen[:, 0, :, 1::2]).mean()
        assert (contrast > 0.2) == is_kept


def test_smooth_jpeg_gradient_knows_what_survives():
    """A chequerboard is lost at low quality, a slow ramp is not: so are their slopes."""
    images = torch.rand(1, 3, 32, 32, generator=seeded()) * 0.02 + 0.5
    leaf = images.clone().requires_grad_(True)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    fast = (1.0 - 2.0 * ((rows + columns) % 2)).expand(1, 3, -1, -1)
    slow = torch.cos(columns / 32 * torch.pi).expand(1, 3, -1, -1)
    kept = []
    for pattern in (fast, slow):
        seen = smooth_jpeg(leaf, 20)
        (gradient,) = torch.autograd.grad((seen * pattern).sum(), leaf)
        kept.append(((gradient * pattern).sum() / pattern.square().sum()).abs())
    assert kept[0] < 0.1 * kept[1]


def test_smooth_median_moves_all_that_lies_near_the_median():
    """The median itself moves one pixel of a window."""
    images = 0.5 + torch.rand(1, 3, 16, 16, generator=seeded()) * 4 / 255
    images[..., 8, 8] = 1.0
    moved = {}
    for name in ("exact", "surrogate"):
        leaf = images.clone().requires_grad_(True)
        seen = median(5).gradient_paths[name](leaf, seeded())
        (gradient,) = torch.autograd.grad(seen[..., 8, 8].sum(), leaf)
        moved[name] = gradient
    assert (moved["exact"] != 0).sum() == 3
    assert ((moved["surrogate"] > 0.005).sum(dim=(1, 2, 3)) == 3 * 24).all()
    assert (moved["surrogate"][..., 8, 8].abs() < 1e-6).all()
    torch.testing.assert_close(moved["surrogate"].sum(dim=(2, 3)), torch.ones(1, 3))


def test_value_and_gradient_come_from_where_they_should(images):
    leaf = images.clone().requires_grad_(True)
    seen = with_gradient_of(images.round(), leaf.square())
    assert torch.equal(seen, images.round())
    torch.testing.assert_close(torch.autograd.grad(seen.sum(), leaf)[0], 2 * images)
    assert torch.equal(straight_through(lambda x, _: x.round())(images, seeded()), images.round())


def through(images, run, num_steps, noise_level=0.2):
    leaf = images.clone().requires_grad_(True)
    seen = TINY.purify_with_gradient(
        leaf, seeded(), num_steps=num_steps, noise_level=noise_level, run=run
    )
    return seen, leaf


def test_recomputed_gradient_equals_the_kept_one(images):
    gradients = []
    for run in (run_directly, recomputed):
        seen, leaf = through(images, run, num_steps=4)
        gradients += torch.autograd.grad(seen.square().sum(), leaf)
    assert torch.equal(*gradients)


def test_recomputation_sees_the_noise_of_the_forward_pass(images, monkeypatch):
    inputs = []
    real = TINY.unet.forward

    def watched(sample, *args, **kwargs):
        inputs.append(sample.detach().clone())
        return real(sample, *args, **kwargs)

    monkeypatch.setattr(TINY.unet, "forward", watched)
    seen, _ = through(images, recomputed, num_steps=3)
    assert len(inputs) == 3
    seen.square().sum().backward()
    assert len(inputs) == 6
    for before, again in zip(inputs[:3], reversed(inputs[3:]), strict=True):
        assert torch.equal(before, again)
    assert not torch.equal(inputs[0], inputs[1])


def kept_bytes(images, run, num_steps):
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        through(images, run, num_steps)
    return sum(sizes)


def test_memory_does_not_grow_with_steps_but_by_the_image():
    images = torch.rand(2, 3, 32, 32, generator=seeded())
    size = images.numel() * images.element_size()
    again = kept_bytes(images, recomputed, 8) - kept_bytes(images, recomputed, 2)
    kept = kept_bytes(images, run_directly, 8) - kept_bytes(images, run_directly, 2)
    assert again <= 6 * 3 * size
    assert kept > 10 * again


def test_surrogate_of_many_steps_is_the_gradient_of_one(images):
    many = DEFENCES[5]
    leaf = images.clone().requires_grad_(True)
    generator = seeded()
    seen = many.gradient_paths["surrogate"](leaf, generator)
    (gradient,) = torch.autograd.grad(seen.sum(), leaf)
    replay = seeded()
    torch.randint(2**62, (), generator=replay)  # the deployed purification's own seed
    one = purifying("purifier", TINY, "0" * 64, noise_level=0.1, num_steps=1)
    other = images.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(one.gradient_paths["exact"](other, replay).sum(), other)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("saved", [TINY, LATENT], ids=["pixel", "latent"])
def test_loaded_purifiers_take_no_gradients_of_weights(saved, tmp_path):
    saved.save_pretrained(tmp_path)
    pipeline, sha256 = load_purifier(tmp_path)
    assert type(pipeline) is type(saved)
    assert len(sha256) == 64
    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert not any(p.requires_grad for network in networks for p in network.parameters())


def test_a_hub_id_is_loaded_and_its_fetched_files_are_hashed(tmp_path, monkeypatch):
    TINY.save_pretrained(tmp_path)
    local, sha256 = load_purifier(tmp_path)
    monkeypatch.setattr("codefend.lab.baselines.purifiers.load_pipeline", lambda source: local)
    fetched = []

    def snapshot(source, *, local_files_only):
        fetched.append((source, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr("codefend.lab.baselines.purifiers.snapshot_download", snapshot)
    assert load_purifier(Path("somebody/purifier")) == (local, sha256)
    assert fetched == [("somebody/purifier", True)]
    with pytest.raises(LabError, match="holds no purifier"):
        load_purifier(Path("work/latent/missing"))


def test_a_round_trip_needs_an_autoencoder():
    with pytest.raises(LabError, match="latent"):
        round_trip(TINY, "0" * 64)


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(LabError, match="holds no purifier"):
        load_purifier(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(LabError, match="cannot be loaded"):
        load_purifier(tmp_path)


def test_noise_is_fresh_by_seed_and_clipped(images):
    noise = gaussian_noise(0.2)
    assert noise.is_random
    first, other = noise.apply(images, seeded()), noise.apply(images, seeded(1))
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1
    with pytest.raises(ValueError, match="positive"):
        gaussian_noise(0.0)
