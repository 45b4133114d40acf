"""Pairs of any victim that the command line names, in one process or several."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codefend.lab.errors import LabError
from codefend.lab.folders.source import open_data
from codefend.lab.progress import progress
from codefend.lab.train.course_sources import is_classifier, load_mllm, load_surrogate_classifier
from codefend.lab.train.crops import PhotoSource
from codefend.lab.train.folder_pairs import make_folder_pairs
from codefend.lab.train.pairs import make_pairs, num_batches_in
from codefend.lab.train.photo_pairs import make_photo_pairs
from codefend.lab.world.compose import World

__all__ = ["PairSource", "make_pairs_of", "make_pairs_together", "photos_of"]


@dataclass(frozen=True, slots=True)
class PairSource:
    """A victim of a recipe, and how much of it is learned.

    Attributes:
        victim: Model directory, hub id or the classifier that training may see.
        num_pairs: Pairs to make.
        batch_size: Images of it in every step of the purifier's training.
    """

    victim: str
    num_pairs: int
    batch_size: int

    @classmethod
    def parse(cls, text: str) -> PairSource:
        """From ``VICTIM=PAIRS,BATCH``.

        Raises:
            LabError: The words mean nothing.
        """
        match = re.fullmatch(r"(.+)=([1-9]\d*),([1-9]\d*)", text)
        if match is None:
            raise LabError(f"--source must be VICTIM=PAIRS,BATCH, not {text}")
        return cls(match[1], int(match[2]), int(match[3]))

    def folder(self, runs: Path) -> Path:
        """Where its pairs are kept: other pairs are never taken for them."""
        name = re.sub(r"[^a-zA-Z0-9]+", "-", self.victim).strip("-")
        return runs / f"pairs-{name}"


def make_pairs_of(
    victim: str, folder: Path, *, world: Path, data: str, size_px: int, **how: Any
) -> None:
    """Attack what suits the victim: crops of photos for a classifier, else pictures or scenes.

    Scenes are composed on the device that attacks them.

    Args:
        victim: Model directory, hub id or classifier.
        folder: Where the pairs go.
        world: File of the embedded world.
        data: Folder or dataset in its place, or nothing.
        size_px: Side that its pictures are brought to.
        how: Number of pairs, steps, batch size, share and seed.
    """
    if is_classifier(victim):
        make_photo_pairs(photos_of(world, data), load_surrogate_classifier(victim), folder, **how)
        return
    model = load_mllm(victim)
    if data:
        make_folder_pairs(open_data(data, size_px), model, folder, **how)
    else:
        make_pairs(World(world, device=model.device), model, folder, **how)


def photos_of(world: Path, data: str) -> PhotoSource:
    """Where crops come from that nobody attacked; their size is that of the pairs."""
    if not data:
        return World(world)
    images = open_data(data, size_px=1)
    images.first("train", 1)
    return images


def make_pairs_together(
    sources: Sequence[PairSource],
    runs: Path,
    *,
    processes: int,
    batch_size: int,
    **how: Any,
) -> None:
    """Make all pairs of a recipe; what is there already is kept, so an interrupted run resumes.

    Args:
        sources: Victims and numbers of pairs.
        runs: Where each source's folder is.
        processes: How many fill the folders together; each gets its share of the cores.
        batch_size: Images attacked at once.
        how: What else ``make_pairs_of`` takes.
    """
    if processes == 1:
        _make_share(sources, runs, (0, 1), batch_size, how)
        return
    total = sum(-(-source.num_pairs // batch_size) for source in sources)
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, context, _start, (processes,)) as pool,
        progress(total=total, desc="pairs", unit="batch") as bar,
    ):
        waiting = {
            pool.submit(_make_share, sources, runs, (part, processes), batch_size, how)
            for part in range(processes)
        }
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_EXCEPTION)
            bar.update(sum(num_batches_in(source.folder(runs)) for source in sources) - bar.n)
            for share in done:
                share.result()


def _start(processes: int) -> None:
    """The parent shows the progress of all; each computes on its own cores."""
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _make_share(
    sources: Sequence[PairSource],
    runs: Path,
    share: tuple[int, int],
    batch_size: int,
    how: dict[str, Any],
) -> None:
    for source in sources:
        make_pairs_of(
            source.victim,
            source.folder(runs),
            num_pairs=source.num_pairs,
            batch_size=batch_size,
            share=share,
            **how,
        )
