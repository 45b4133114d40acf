"""Weights that are stored in fewer bytes, and unpacked into a cache when they are first used.

What only the laboratory needs need not make every clone longer. A folder of weights may hold
`NAME.safetensors.xz` in place of `NAME.safetensors`: the same file, compressed (`xz --decompress`
gives it back), or one whose matrices are 8-bit integers with a scale for each output channel.
`unpacked` leads to a folder that everything else can read; no pickle is involved anywhere.
"""

import hashlib
import lzma
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

__all__ = ["cache_directory", "folder_digest", "pack", "packed_files", "unpacked", "visible_files"]

_SHIPPED = Path(__file__).with_name("weights")
_PACKED = ".safetensors.xz"
_SCALE = ".int8_scale"
_MARK = {"quantised": "int8"}
# Two bytes a number: the one with sign and exponent is told from the one without pattern.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 1}]


def unpacked(source: str | Path) -> str | Path:
    """Where these weights can be read: `source` itself, if nothing in it is packed.

    Args:
        source: A directory or a hub id.

    Returns:
        `source`, or a folder of the same name in the cache (`$XDG_CACHE_HOME/codefend`, else
        `~/.cache/codefend`; a temporary one where that cannot be written), named by its content.

    Raises:
        OSError: A packed file is damaged, there is no room, or the installation leaves the weights
            out.
    """
    folder = Path(source)
    if folder.parent == _SHIPPED and not folder.exists():
        msg = (
            f"{folder.name} is not in this installation, which holds only what is served: "
            "install from a checkout (pip install --editable '.[lab]')"
        )
        raise FileNotFoundError(msg)
    if not folder.is_dir() or not packed_files(folder):
        return source
    try:
        return _unpack(folder, cache_directory() / "weights" / folder_digest(folder))
    except PermissionError:
        return _unpack(folder, Path(tempfile.gettempdir()) / f"codefend-{os.getuid()}")


def packed_files(folder: Path) -> list[Path]:
    """The packed files below a folder that no plain one of the same name has taken the place of."""
    packed = sorted(folder.rglob(f"*{_PACKED}"))
    return [file for file in packed if not file.with_suffix("").exists()]


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder, in order, but for what lies in hidden folders: caches."""

    def is_hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parent.parts)

    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_hidden(path))


def pack(folder: Path, *, to_int8: bool = False) -> None:
    """Replaces every safetensors file below a folder by its packed form.

    Args:
        folder: Of weights.
        to_int8: Rounds matrices and kernels to 8 bits, which changes what they compute; else
            unpacking gives back every byte.
    """
    for file in sorted(folder.rglob("*.safetensors")):
        content = _rounded(file) if to_int8 else file.read_bytes()
        packed = lzma.compress(content, format=lzma.FORMAT_XZ, filters=_FILTERS)
        file.with_name(file.name + ".xz").write_bytes(packed)
        file.unlink()


def cache_directory() -> Path:
    """Where this user keeps what can be made again; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codefend"


def folder_digest(folder: Path) -> str:
    """The sha256 of all files below a folder and of their names, in hex; hidden folders apart."""
    digest = hashlib.sha256()
    for file in visible_files(folder):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _unpack(folder: Path, cache: Path) -> Path:
    """Fills the cache as a whole or not at all: another process may be at it too."""
    whole = cache / folder.name
    if whole.is_dir():
        return whole
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        copy = Path(scratch) / folder.name
        shutil.copytree(folder, copy)
        for file in packed_files(copy):
            _expand(file)
        try:
            copy.rename(whole)
        except OSError:
            if not whole.is_dir():
                raise
    return whole


def _expand(file: Path) -> None:
    target = file.with_suffix("")
    try:
        target.write_bytes(lzma.decompress(file.read_bytes(), format=lzma.FORMAT_XZ))
    except (lzma.LZMAError, EOFError) as error:
        raise OSError(f"{file.name} is damaged: {error}") from error
    file.unlink()
    with safe_open(target, framework="np") as opened:
        metadata = opened.metadata() or {}
    if metadata.get("quantised") == _MARK["quantised"]:
        stored = load_file(target)
        scales = {name: stored.pop(name) for name in list(stored) if name.endswith(_SCALE)}
        for name, value in stored.items():
            if name + _SCALE in scales:
                stored[name] = _scaled(value, scales[name + _SCALE])
        save_file(stored, target, metadata={"format": "pt"})


def _scaled(value: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float16]:
    per_channel = scale.reshape(-1, *[1] * (value.ndim - 1))
    return (value * per_channel).astype(np.float16)


def _rounded(file: Path) -> bytes:
    """A safetensors file whose half-precision matrices and kernels are 8-bit integers."""
    stored: dict[str, NDArray[np.generic]] = {}
    for name, value in load_file(file).items():
        if value.ndim < 2 or value.dtype != np.float16:
            stored[name] = value
            continue
        rows = value.astype(np.float32).reshape(len(value), -1)
        scale = np.maximum(np.abs(rows).max(axis=1), 1e-12) / 127
        stored[name] = np.rint(rows / scale[:, None]).astype(np.int8).reshape(value.shape)
        stored[name + _SCALE] = scale.astype(np.float32)
    return save(stored, metadata={"format": "pt", **_MARK})
