"""One version of what is learned: purifier, adapters, detector and prompts, as found on disk.

Links are followed once, when a version is loaded: a worker that is replaced comes back with the
weights of its own version, whatever the link leads to by then.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from codefend.models.manifest import (
    MANIFEST_NAME,
    WEIGHTS_DIRECTORY,
    read_manifest,
    verify_weights,
)
from codefend.models.prompts.templates import Task, Template, read_templates
from codefend.service.purify.engine import EngineOptions
from codefend.service.settings import Settings

__all__ = [
    "ModelVersion",
    "UnfitModelVersion",
    "check_directories",
    "check_weights",
    "load_model_version",
]

logger = logging.getLogger(__name__)


class UnfitModelVersion(Exception):
    """A new version cannot serve; `outcome` is what the metric calls the reason."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """What workers are started with, and the prompts that belong to it.

    Attributes:
        number: Counts the loads of this process, from 1.
        purifier: Directory, links followed, or hub id.
        adapters: The same; None for none.
        detector: The same; None for none.
        templates: The prompt of each task.
    """

    number: int
    purifier: str
    adapters: str | None
    detector: str | None
    templates: Mapping[Task, Template]

    def options(self, settings: Settings, device: str) -> EngineOptions:
        """What an engine is loaded with on one device."""
        return replace(
            EngineOptions.of(settings, device),
            purifier=self.purifier,
            adapters=self.adapters,
            detector=self.detector,
        )


def load_model_version(settings: Settings, number: int) -> ModelVersion:
    """Finds what the settings name, as it lies on disk now; reads no weights.

    Raises:
        UnfitModelVersion: The prompts are malformed, or not there.
    """
    try:
        templates = read_templates(settings.prompts)
    except (OSError, ValueError) as error:
        raise UnfitModelVersion("bad_prompts", str(error)) from error
    adapters, detector = settings.purifier_adapters, settings.detector_source
    return ModelVersion(
        number,
        _follow(settings.purifier),
        adapters and _follow(adapters),
        detector and _follow(detector),
        templates,
    )


def check_weights(version: ModelVersion) -> None:
    """Compares those weights with their digests that stand in a manifest beside them.

    Weights of the user's own need no manifest; the log says where there is none.

    Raises:
        UnfitModelVersion: A file is missing, altered or not listed; or shipped weights are not in
            their manifest.
    """
    check_directories(version.purifier, version.adapters, version.detector)


def check_directories(*sources: str | None) -> None:
    """The same for any directories of weights; None and hub ids are passed over.

    Raises:
        UnfitModelVersion: As above, or what can only be a path leads to no directory.
    """
    for source in sources:
        if source and _is_path(source) and not os.path.isdir(source):
            msg = f"{source} is no directory: name one that holds weights, or a hub id (owner/name)"
            raise UnfitModelVersion("bad_weights", msg)
        problems = list(_problems_of(Path(source))) if source and os.path.isdir(source) else []
        if problems:
            raise UnfitModelVersion("bad_weights", "; ".join(problems))


def _is_path(source: str) -> bool:
    """Whether it cannot be a hub's id, which is a name, or an owner and a name."""
    return source.startswith(("/", ".", "~")) or source.count("/") > 1


def _problems_of(directory: Path) -> Iterator[str]:
    manifest = directory.parent / MANIFEST_NAME
    try:
        entries = read_manifest(directory.parent) if manifest.is_file() else []
        listed = [entry for entry in entries if entry.path == directory.name]
        for entry in listed:
            yield from verify_weights(entry, directory.parent)
    except (OSError, ValueError) as error:
        yield f"{manifest}: {error}"
        return
    if listed:
        return
    if directory.is_relative_to(os.path.realpath(WEIGHTS_DIRECTORY)):
        yield f"{directory} is not listed in {manifest}, which comes with the shipped weights"
        return
    fields = {"weights": str(directory), "manifest": str(manifest)}
    logger.warning(
        "weights that no manifest lists: altered ones are served, too", extra={"fields": fields}
    )


def _follow(source: str) -> str:
    return os.path.realpath(source) if os.path.isdir(source) else source
