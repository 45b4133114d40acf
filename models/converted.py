"""Networks converted for OpenVINO: made once, kept beside their weights, then free of torch.

The only module that imports OpenVINO, and before it does, it shuts its telemetry out: that package
reports every import to its makers unless it is missing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from codefend.models.packed import cache_directory, folder_digest

if TYPE_CHECKING:
    from openvino import Core, InferRequest, Model
    from torch import Tensor, nn

__all__ = ["Compiled", "Converted", "converted", "load_converted"]

logger = logging.getLogger(__name__)

_HOME = ".openvino"
_NETWORK, _WEIGHTS, _DESCRIPTION = "network.xml", "network.bin", "description.json"
# What it says where memory cannot be had, oneDNN, and C++ itself.
_SIGNS_OF_LACK = ("Failed to allocate", "could not create a memory", "bad_alloc")
_MADE_WITH = ("openvino", "torch", "diffusers")


@dataclass(frozen=True, slots=True)
class Converted:
    """A network that OpenVINO can compile.

    Attributes:
        network: With dynamic shapes, in single precision.
        facts: What else whoever runs it has to know; JSON.
    """

    network: Model
    facts: dict[str, Any] = field(default_factory=dict)


def load_converted(
    source: str | Path | None, convert: Callable[[], Converted], variant: str = "float32"
) -> Converted:
    """What `convert` made of these weights, at this start or an earlier one.

    It is kept in `.openvino` beside the weights or, where that cannot be written, in the cache
    (`$XDG_CACHE_HOME/codefend`, else `~/.cache/codefend`); where neither can, it is made at every
    start. What is kept belongs to these weights, this code and these versions of its packages:
    anything else, and what is damaged, is made anew. A package that is not installed has no
    version: where torch is missing, what was converted elsewhere is all that can run.

    Args:
        source: The directory that holds all that `convert` reads; nothing is kept of a hub id, nor
            where there is None.
        convert: Reads the weights and converts them.
        variant: Which of several networks that are made of the same weights; each is kept.

    Raises:
        RuntimeError: Nothing is kept, and torch, which converts, is not installed.
        Exception: Whatever `convert` raises.
    """
    if source is None or not os.path.isdir(source):
        return convert()
    folder = Path(source)
    key = f"{variant}-{_key_of(folder)}"
    homes = list(_homes_of(folder))
    for home in homes:
        kept = _read(home / key)
        if kept is not None:
            return kept
    if find_spec("torch") is None:
        msg = (
            f"{folder} was not converted for OpenVINO, and torch, which does that, is not "
            "installed: run `codefend prepare` where it is, and bring the folder with its "
            f"{_HOME} here"
        )
        raise RuntimeError(msg)
    made = convert()
    for home in homes:
        try:
            _keep(made, home, key)
        except OSError as error:
            logger.info("nothing is kept in %s: %s", home, error)
            continue
        # Read back, it lies in the file's own pages: what torch needed to make it can go.
        return _read(home / key) or made
    logger.warning("the converted network of %s cannot be kept: the next start is as slow", folder)
    return made


def converted(module: nn.Module, example: tuple[Tensor, ...], facts: dict[str, Any]) -> Converted:
    """Converts a module that draws and checks nothing, for any batch and any size.

    Args:
        module: It maps tensors to tensors.
        example: Arguments of at least two images, so that nothing is taken for a constant.
        facts: JSON.

    Raises:
        Exception: Whatever OpenVINO raises for what it does not know.
    """
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        # Tracing warns of every check of a shape, and that it will be replaced some day.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module.eval(), example, check_trace=False
        )
        network = _openvino().convert_model(traced, example_input=example)
    return Converted(network, facts)


class Compiled:
    """A network compiled for this processor; runs one batch at a time."""

    def __init__(self, network: Model, num_threads: int | None = None) -> None:
        """Compiles it.

        Args:
            network: As converted.
            num_threads: Of one batch; None for all processors.

        Raises:
            RuntimeError: OpenVINO cannot run it here.
        """
        self._network = network
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
            "ENABLE_CPU_PINNING": False,  # decoding and the embedded model use the same processors
            "INFERENCE_PRECISION_HINT": "f32",  # some processors would take bfloat16
        }
        if num_threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = num_threads
        self._request: InferRequest | None = None
        self._compile()

    def __call__(self, *inputs: NDArray[np.generic]) -> list[NDArray[Any]]:
        """Runs a batch.

        Args:
            inputs: In the order of the module's own arguments.

        Returns:
            What it gives, copied.

        Raises:
            MemoryError: There is too little memory for this batch; a smaller one may fit.
            RuntimeError: Whatever else fails.
        """
        if self._request is None:
            self._compile()
        request = cast("InferRequest", self._request)
        try:
            outputs = request.infer([np.ascontiguousarray(i) for i in inputs], share_inputs=True)
        except RuntimeError as error:
            # What ran out of memory is left half built: run again, it ends the process.
            self._request = None
            if any(sign in str(error) for sign in _SIGNS_OF_LACK):
                raise MemoryError(str(error).strip()) from None
            raise
        return list(outputs.values())

    def _compile(self) -> None:
        model = _core().compile_model(self._network, "CPU", self._options)
        self._request = model.create_infer_request()


@functools.cache
def _openvino() -> Any:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    return importlib.import_module("openvino")


@functools.cache
def _core() -> Core:
    core: Core = _openvino().Core()
    return core


def _key_of(folder: Path) -> str:
    """Names the weights and the code that a converted network depends on."""
    digest = hashlib.sha256(folder_digest(folder).encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    """Of the packages that convert, as far as they are installed."""
    found = {}
    for package in _MADE_WITH:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _homes_of(folder: Path) -> Iterator[Path]:
    yield folder / _HOME
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
    with contextlib.suppress(RuntimeError):  # this user has no home
        yield cache_directory() / "openvino" / place[:16]


def _read(entry: Path) -> Converted | None:
    """What is kept there; None where nothing is, or nothing that is whole."""
    if not entry.is_dir():
        return None
    try:
        described = json.loads((entry / _DESCRIPTION).read_text(encoding="utf-8"))
        if described["sha256"] != _digests(entry):
            raise ValueError("its files are not those that were written")
        made_with = dict(described["made_with"])
        if made_with | _versions() != made_with:
            return None
        return Converted(_core().read_model(entry / _NETWORK), dict(described["facts"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        logger.warning("the converted network in %s is damaged: %s", entry, error)
        return None


def _digests(entry: Path) -> dict[str, str]:
    def digest(name: str) -> str:
        with (entry / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return {name: digest(name) for name in (_NETWORK, _WEIGHTS)}


def _keep(made: Converted, home: Path, key: str) -> None:
    """Writes an entry as a whole or not at all, and removes those that it takes the place of.

    Raises:
        OSError: It cannot be written there.
    """
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=home) as scratch:
        entry = Path(scratch) / key
        entry.mkdir()
        try:
            _openvino().save_model(made.network, entry / _NETWORK, compress_to_fp16=False)
        except RuntimeError as error:  # a full disk
            raise OSError(str(error)) from error
        described = {"sha256": _digests(entry), "made_with": _versions(), "facts": made.facts}
        (entry / _DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")
        for old in home.glob(f"{key.partition('-')[0]}-*"):
            shutil.rmtree(old, ignore_errors=True)
        try:
            entry.rename(home / key)
        except OSError:
            if not (home / key).is_dir():  # else another process was at it, too
                raise
