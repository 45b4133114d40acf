"""Programs of the system: what they print, what package clients fetch, and why they fail.

Packages are fetched as data by the registries' own clients: nothing in them is run or installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from codefend.lab.errors import LabError

__all__ = ["Registry", "fetch_archive", "fetch_debian_package", "read_member", "run_program"]

Registry = Literal["pypi", "npm"]


def run_program(
    command: list[str],
    *,
    folder: Path | None = None,
    given: bytes = b"",
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> bytes:
    """What a program prints.

    Args:
        command: its name or path, and its arguments.
        folder: to run it in; made where it is missing.
        given: its input.
        environment: variables to set beside ours.
        timeout_s: how long it may take; without an end where None.

    Raises:
        LabError: It is not installed, failed, or took too long.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(  # noqa: S603
            command,
            cwd=folder,
            input=given,
            capture_output=True,
            check=True,
            timeout=timeout_s,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed ({' '.join(command)})") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{command[0]} failed: {error}") from error
    except subprocess.CalledProcessError as error:
        detail = error.stderr.decode(errors="replace").strip()[-300:]
        raise LabError(f"{' '.join(command)} failed: {detail}") from error
    return done.stdout


def fetch_debian_package(package: str, into: Path) -> None:
    """Download a Debian package and unpack it as the folder ``into``, unless that is there.

    Raises:
        LabError: A package client is missing or failed.
    """
    if into.exists():
        return
    folder = into.resolve().parent
    run_program(["apt-get", "download", package], folder=folder)
    archive = next(folder.glob(f"{package}_*.deb"))
    partial = folder / f"{package}.partial"
    run_program(["dpkg-deb", "-x", str(archive), str(partial)], folder=folder)
    partial.rename(into)
    archive.unlink()


def fetch_archive(registry: Registry, package: str, folder: Path, *, version: str = "") -> Path:
    """The archive of a package: npm's tarball, or a wheel, whether or not it would install here.

    Args:
        registry: whose client fetches it.
        package: its name there.
        folder: empty; the archive is put there.
        version: the newest where empty.

    Raises:
        LabError: The client is missing or failed.
    """
    if registry == "npm":
        wanted = f"{package}@{version}" if version else package
        run_program(["npm", "pack", "--silent", wanted], folder=folder)
        return next(folder.glob("*.tgz"))
    wanted = f"{package}=={version}" if version else package
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    any_python = ["--only-binary", ":all:", "--python-version", "3.12"]
    run_program([*pip, *any_python, wanted], folder=folder)
    return next(folder.glob("*.whl"))


def read_member(archive: Path, path: str) -> bytes:
    """One file of a wheel or a tarball.

    Raises:
        LabError: It is not in there.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(path)
        with tarfile.open(archive) as package:
            file = package.extractfile(path)
            return file.read() if file else b""
    except KeyError as error:
        raise LabError(f"{archive.name} holds no {path}") from error
