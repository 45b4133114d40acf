"""Purifies without a server, with its engine: images in Python, and files from the shell."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from codefend.models.buckets import Bucket, choose_bucket, crop_from_bucket, pad_to_bucket
from codefend.models.codec import ImageFormat, encode_image
from codefend.models.purifier.strengths import Strength
from codefend.models.tiles import Tiling
from codefend.service.decode.colours import lay_on_white
from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.errors import RequestRefused
from codefend.service.formats.table import FORMAT_LABELS, FORMATS
from codefend.service.purify.engine import Engine, EngineOptions, find_engine_loader
from codefend.service.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ImagePurifier", "purify_files"]

SOURCE_SUFFIXES = frozenset(suffix for row in FORMATS.values() for suffix in row.suffixes)
_FORMATS = {".jpg": ImageFormat.JPEG, ".jpeg": ImageFormat.JPEG, ".webp": ImageFormat.WEBP}

Pixels = NDArray[np.uint8]


class ImagePurifier:
    """Purifies images in this process; in Python it is ``codefend.Purifier``.

    >>> from codefend import Purifier
    >>> purifier = Purifier.load()
    >>> purified = purifier(image)
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tiling: Tiling,
        max_batch_pixels: int,
        strength: Strength = Strength.STANDARD,
    ) -> None:
        """Takes an engine.

        Args:
            engine: Purifies batches.
            tiling: How large images are cut.
            max_batch_pixels: Most pixels of a batch of several images, padding included.
            strength: How strongly images are purified.

        Raises:
            ValueError: The purifier has no such strength.
        """
        engine.facts.levels_at(strength)
        self._strength = strength
        self._engine = engine
        self._tiling = tiling
        self._max_batch_pixels = max_batch_pixels

    @classmethod
    def load(cls, purifier: str | Path | None = None, *, device: str = "auto") -> Self:
        """Loads a purifier, and the detector that stands behind the shipped one.

        What else there is to set is read from the ``CODEFEND_*`` environment, as the service does.

        Args:
            purifier: Directory or hub id; None for what the service would load.
            device: `auto`, `cpu`, `cuda:0`, ...

        Raises:
            OSError: There is no such purifier.
            ValueError: It is of no known kind.
            RuntimeError: There is no such device.
        """
        settings = Settings() if purifier is None else Settings(purifier=str(purifier))
        return cls.of(settings, device)

    @classmethod
    def of(cls, settings: Settings, device: str) -> Self:
        """Loads what a service with these settings would, on one device.

        Raises:
            OSError: There is no such purifier; or ValueError, RuntimeError, as in `load`.
        """
        engine = find_engine_loader(settings.engine)(EngineOptions.of(settings, device))
        return cls(
            engine,
            tiling=settings.tiling,
            max_batch_pixels=settings.max_batch_pixels,
            strength=settings.strength,
        )

    def __call__(self, images: Any) -> Any:
        """Purifies one image or several, each with fresh noise.

        Args:
            images: A PIL image; an array (H, W, 3) or (B, H, W, 3), uint8; a tensor (3, H, W) or
                (B, 3, H, W), uint8 or floating in [0, 1]; or a sequence of these, of any sizes.

        Returns:
            The same kind, shape, type and device; of a PIL image its RGB, upright, on white.

        Raises:
            TypeError: It is none of these.
            ValueError: It has another shape, is empty, or holds values outside [0, 1].
        """
        if isinstance(images, list | tuple):
            kinds = [_Kind.of(image) for image in images]
            parts = [pixels for kind in kinds for pixels in kind.pixels]
            done = iter(self._purify(parts))
            return type(images)([kind.back([next(done) for _ in kind.pixels]) for kind in kinds])
        kind = _Kind.of(images)
        return kind.back(self._purify(kind.pixels))

    def suspicion(self, image: Any, purified: Any) -> float | None:
        """How much an image looks attacked, by what its purification took out.

        Args:
            image: One image, as `__call__` takes it.
            purified: What that made of it.

        Returns:
            In [0, 1]: the share of clean images that look less attacked; None without a detector.

        Raises:
            TypeError: It is no image; or ValueError, as in `__call__`.
        """
        (before,), (after,) = _Kind.of(image).pixels, _Kind.of(purified).pixels
        return self._engine.suspect(before, after)

    def _purify(self, images: Sequence[Pixels]) -> list[Pixels]:
        """Purifies images of any sizes: those of one bucket together, large ones by tiles."""
        done: dict[int, Pixels] = {}
        buckets: dict[Bucket, list[int]] = {}
        for index, pixels in enumerate(images):
            height, width = pixels.shape[:2]
            if len(self._tiling.cut(height, width)) > 1:
                done[index] = self._tiling.apply(self._purify_one, pixels)
            else:
                buckets.setdefault(choose_bucket(height, width), []).append(index)
        for bucket, indices in buckets.items():
            size = max(1, self._max_batch_pixels // bucket.num_pixels)
            for start in range(0, len(indices), size):
                chunk = indices[start : start + size]
                batch = np.stack([pad_to_bucket(images[index], bucket) for index in chunk])
                purified = self._engine.purify(batch, self._strength)
                for index, pixels in zip(chunk, purified, strict=True):
                    done[index] = crop_from_bucket(pixels, *images[index].shape[:2])
        return [done[index] for index in range(len(images))]

    def _purify_one(self, pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        padded = pad_to_bucket(pixels, choose_bucket(height, width))
        purified = self._engine.purify(padded[np.newaxis], self._strength)
        return crop_from_bucket(purified[0], height, width)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What was given, and its pixels as the engine takes them: (H, W, 3) uint8 each."""

    given: Any
    pixels: list[Pixels]

    @classmethod
    def of(cls, given: Any) -> "_Kind":
        if isinstance(given, Image.Image):
            return cls(given, [_of_pillow(given)])
        if isinstance(given, np.ndarray):
            _check_shape(given.shape, given.ndim, channels=-1)
            if given.dtype != np.uint8:
                msg = f"an array of pixels is uint8, from 0 to 255, not {given.dtype}"
                raise ValueError(msg)
            return cls(given, list(given.reshape(-1, *given.shape[-3:])))
        if hasattr(given, "detach"):
            return cls(given, _of_tensor(given))
        msg = f"an image is PIL's, an array or a tensor, not {type(given).__name__}"
        raise TypeError(msg)

    def back(self, purified: list[Pixels]) -> Any:
        """The purified pixels in the form of what was given."""
        if isinstance(self.given, Image.Image):
            return Image.fromarray(purified[0])
        stacked = np.stack(purified)
        if isinstance(self.given, np.ndarray):
            return stacked.reshape(self.given.shape)
        return _like_tensor(stacked, self.given)


def _of_pillow(image: Image.Image) -> Pixels:
    return np.asarray(lay_on_white(ImageOps.exif_transpose(image)))


def _of_tensor(images: "Tensor") -> list[Pixels]:
    import torch

    _check_shape(tuple(images.shape), images.ndim, channels=-3)
    pixels = images.detach()
    if pixels.is_floating_point():
        if not bool(((pixels >= 0) & (pixels <= 1)).all()):
            msg = "a floating tensor holds values from 0 to 1"
            raise ValueError(msg)
        pixels = (pixels.float() * 255).round().to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        msg = f"a tensor of pixels is uint8 or floating, not {pixels.dtype}"
        raise ValueError(msg)
    flat = pixels.reshape(-1, *pixels.shape[-3:]).movedim(-3, -1).cpu().contiguous()
    return list(flat.numpy())


def _like_tensor(pixels: Pixels, given: "Tensor") -> "Tensor":
    import torch

    purified = torch.from_numpy(pixels).movedim(-1, -3).to(given.device).reshape(given.shape)
    return purified.to(given.dtype) / 255 if given.is_floating_point() else purified


def _check_shape(shape: tuple[int, ...], num_axes: int, *, channels: int) -> None:
    if num_axes not in (3, 4) or shape[channels] != 3 or 0 in shape:
        form = "(H, W, 3) or (B, H, W, 3)" if channels == -1 else "(3, H, W) or (B, 3, H, W)"
        msg = f"images have the shape {form}, not {shape}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class _Errand:
    source: Path
    target: Path


def purify_files(
    source: Path,
    target: Path,
    purifier: ImagePurifier,
    settings: Settings,
    *,
    overwrite: bool,
) -> list[str]:
    """Purifies one image, or all images of a folder and its subfolders.

    Every result is written whole or not at all, so that the work can be interrupted at any moment;
    started again, it passes over what is done.

    Args:
        source: A file, or a folder.
        target: A file whose suffix chooses the format, or a folder that takes PNGs.
        purifier: Purifies them.
        settings: How large a picture may be, and how it is scaled and cut.
        overwrite: Purify again what is done.

    Returns:
        One sentence for each file that could not be purified.

    Raises:
        FileNotFoundError: There is no such source, or no image in it.
    """
    errands = list(_list_errands(source, target))
    if not errands:
        msg = f"no {FORMAT_LABELS} in {source}"
        raise FileNotFoundError(msg)
    due = [errand for errand in errands if overwrite or not errand.target.exists()]
    failures = []
    with tqdm(total=len(errands), initial=len(errands) - len(due), unit="image") as progress:
        for errand in due:
            try:
                _purify_file(errand, purifier, settings)
            except (RequestRefused, OSError) as error:
                failures.append(f"{errand.source}: {error}")
            progress.update()
    return failures


def _list_errands(source: Path, target: Path) -> Iterator[_Errand]:
    if not source.is_dir():
        if source.exists():
            into_folder = target.is_dir()
            yield _Errand(source, target / f"{source.stem}.png" if into_folder else target)
        return
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in SOURCE_SUFFIXES and path.is_file():
            # The old suffix stays in the name: a.png and a.jpg may lie side by side.
            name = path.name if path.suffix.lower() == ".png" else f"{path.name}.png"
            yield _Errand(path, target / path.relative_to(source).with_name(name))


def _purify_file(errand: _Errand, purifier: ImagePurifier, settings: Settings) -> None:
    pixels, _ = decode_picture(errand.source.read_bytes(), PictureLimits.of(settings))
    image_format = _FORMATS.get(errand.target.suffix.lower(), ImageFormat.PNG)
    encoded = encode_image(purifier(pixels), image_format)
    errand.target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = errand.target.with_name(f".{errand.target.name}.unfinished")
    try:
        unfinished.write_bytes(encoded)
        os.replace(unfinished, errand.target)
    finally:
        unfinished.unlink(missing_ok=True)
