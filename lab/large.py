"""``codefend-lab large``: what becomes of large images, and of what is hidden for their scaling.

Is a page still read that was purified in tiles, or scaled down first; do tiles withstand what the
whole picture does; and does a picture that scaling would bring out survive all that?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import typer
from PIL import Image
from pydantic import PositiveInt
from torch import Generator, Tensor

from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.pixels import decode_png
from codefend.lab.attacks.registry import Family
from codefend.lab.attacks.scaling import ImageScaling, Resampling, scale_down
from codefend.lab.baselines.defence import NO_DEFENCE, Defence, defend
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.documents.document import Document, Fonts, TextLine
from codefend.lab.documents.kinds import WIDTH_PX, draw_page
from codefend.lab.experiments.pretrained import PretrainedExperiment, defence_table
from codefend.lab.experiments.report import Row, Threat, provenance, rows_under, write_report
from codefend.lab.experiments.responder import Responder
from codefend.lab.experiments.statistics import Estimate, ratio
from codefend.lab.experiments.store import Store
from codefend.lab.gallery.scenes import gallery_entries
from codefend.lab.reading import edit_distance
from codefend.lab.recognition.lines import LineReader
from codefend.lab.victims.answers import is_match
from codefend.lab.victims.generate import MAX_ANSWER_TOKENS, generate
from codefend.lab.victims.victim import Victim, load_victim
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.quantise import dequantise, quantise
from codefend.models.shrink import shrink
from codefend.models.tiles import Tiling

__all__ = ["Large", "sheet"]

TEXT_SIZES_PX = (24, 32, 48)
_MARGIN_PX = 6


class Large(PretrainedExperiment):
    """Read a page of twelve megapixels, and look for images that scaling alone would show."""

    name: ClassVar[str] = "large"

    mllm: Path = WEIGHTS_DIRECTORY / "mllm"
    """Directory or hub id of the model that is shown hidden images."""
    gallery: Path = Path("gallery")
    """Scenes to hide, and to hide them in."""
    height: PositiveInt = 3000
    """Rows of the page."""
    width: PositiveInt = 4000
    """Columns of the page."""
    lines: PositiveInt = 20
    """Lines read, of each text size."""
    side_px: PositiveInt = 2048
    """Longest side that the page is scaled down to."""
    scenes: PositiveInt = 12
    """Scenes with another one hidden in each."""
    factor: PositiveInt = 4
    """Sides of uploads, as a multiple of what the model sees."""
    steps: PositiveInt = 20
    """Repetitions of the attack."""
    seeds: PositiveInt = 1
    """Seeds of the purifier's noise."""

    def run(self) -> None:
        """Writes the report."""
        networks = self.load_networks()
        purifier = purifying("purifier", *networks["purifier"])
        tiled = _in_tiles(purifier, Tiling())
        responder = Responder(Store(self.out / "outcomes"))
        reader, victim = LineReader.load(self.encoders), load_victim(self.mllm)
        reading = _reading_rows(
            self, reader, responder, [NO_DEFENCE, tiled, _behind(_area(self.side_px), tiled)]
        )
        mosaic = _mosaic_rows(self, victim, responder, purifier)
        scaling = _scaling_rows(self, victim, responder, purifier)
        weights = {"purifier": networks["purifier"][1], "reader": reader.sha256}
        meta = provenance(
            seed=self.seed,
            weights=weights | {"mllm": victim.sha256},
            device="cpu",
            settings=self,
        )
        sizes = {f"character_error@{size}px": f"{size} px" for size in TEXT_SIZES_PX}
        tables = [defence_table("characters wrong", reading, sizes, lambda row: row.metric)]
        kinds = {row.attack: row.attack for row in mosaic}
        tables.append(defence_table("answers right", mosaic, kinds, lambda row: row.attack))
        for metric, title in (
            ("hidden_accuracy", "answers right for the hidden scene"),
            ("accuracy", "answers right for the scene that is seen"),
        ):
            own = [row for row in scaling if row.metric == metric]
            filters = {row.attack: row.attack for row in own}
            tables.append(defence_table(title, own, filters, lambda row: row.attack))
        sections = [*(table.markdown() for table in tables), self._notes()]
        typer.echo(write_report(self.out, meta, [*reading, *mosaic, *scaling], sections))

    def _notes(self) -> str:
        return (
            f"A page of {self.width} × {self.height} pixels, {self.lines} lines of each text size, "
            "read by PP-OCRv6's recogniser: edits over characters of the truth. "
            f"In tiles is how the service purifies it; area scales it to {self.side_px} first. "
            "All scenes of the gallery as one picture, attacked (T0) and clean, which is purified "
            "whole, in tiles, or scene by scene (`alone`), and cut up again before it is asked "
            f"about. {self.scenes} scenes of it, enlarged {self.factor} times, with the next "
            "scene hidden in each for one filter, which then makes them as small as the model sees "
            "them; `none` hides nothing, and is scaled by the bilinear filter. "
            "An upload for an antialiased filter hides nothing: it shows the other scene itself. "
            f"There area scales to twice the model's side. Brackets are 95 % intervals by a "
            "bootstrap over lines, and over scenes."
        )


def _area(side_px: int) -> Defence:
    """Scales down to a longest side, as ``CODEFEND_PURIFY_SIDE_PX`` does.

    Raises:
        ValueError: for a side below one pixel.
    """
    if side_px < 1:
        raise ValueError(f"a side has at least one pixel, not {side_px}")

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return _of_pixels([shrink(pixels, side_px) for pixels in _pixels_of(images)], images)

    return Defence("area", f"side={side_px}", apply)


def _in_tiles(defence: Defence, tiling: Tiling) -> Defence:
    """The same defence, but large images go through it in tiles.

    Args:
        defence: what each tile goes through.
        tiling: how images are cut, and which are.
    """

    def apply(images: Tensor, generator: Generator) -> Tensor:
        def purify(tile: np.ndarray) -> np.ndarray:
            seed = int(torch.randint(1 << 31, (), generator=generator))
            return defend(defence, [tile], seed=seed)[0]

        return _of_pixels([tiling.apply(purify, pixels) for pixels in _pixels_of(images)], images)

    name = f"{defence.name}-in-tiles"
    setting = f"{defence.setting} {tiling.side_px}/{tiling.overlap_px} above {tiling.whole_px}"
    return Defence(name, setting, apply, is_random=defence.is_random)


def _pixels_of(images: Tensor) -> np.ndarray:
    return quantise(images).cpu().numpy()


def _of_pixels(pictures: list[np.ndarray], like: Tensor) -> Tensor:
    return dequantise(torch.from_numpy(np.stack(pictures))).to(like)


def _behind(first: Defence, second: Defence) -> Defence:
    """One after the other; the first changes the size, so that no gradient is asked of it."""

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return second.apply(first.apply(images, generator), generator)

    name, setting = f"{first.name}+{second.name}", f"{first.setting} {second.setting}"
    return Defence(name, setting, apply, is_random=second.is_random)


def sheet(height: int, width: int, *, seed: int = 0) -> Document:
    """A page of columns, each of paragraphs in one text size, as a large scan would have them.

    Args:
        height: rows.
        width: columns.
        seed: of the text.
    """
    image = np.full((height, width, 3), 250, np.uint8)
    lines: list[TextLine] = []
    sizes = cycle(TEXT_SIZES_PX)
    for left in range(0, width - WIDTH_PX + 1, WIDTH_PX):
        top, size_px = 0, next(sizes)
        for index in range(height):
            page = draw_page(index, size_px, Fonts.built_in(), seed=seed + left)
            rows = page.image.shape[0]
            if top + rows > height:
                break
            image[top : top + rows, left : left + WIDTH_PX] = page.image
            lines += [TextLine(each.text, _moved(each, left, top)) for each in page.lines]
            top += rows
    return Document(image, tuple(lines), "page", min(TEXT_SIZES_PX), 0)


def _moved(line: TextLine, right_px: int, down_px: int) -> tuple[float, float, float, float]:
    left, top, right, bottom = line.box
    return left + right_px, top + down_px, right + right_px, bottom + down_px


def _reading_rows(
    plan: Large, reader: LineReader, responder: Responder, defences: Sequence[Defence]
) -> list[Row]:
    """Characters wrong, by text size."""
    page = sheet(plan.height, plan.width, seed=plan.seed)
    chosen = {size: _drawn(page, size, plan) for size in TEXT_SIZES_PX}
    lines = [line for own in chosen.values() for line in own]

    def read(images: Sequence[np.ndarray]) -> list[str]:
        (image,) = images
        crops = (_crop(image, line, page.image.shape[1]) for line in lines)
        return [reader.read(dequantise(torch.from_numpy(crop[None])))[0] for crop in crops]

    asked = [reader.sha256, [line.text for line in lines]]
    rows: list[Row] = []
    for defence in defences:
        said = responder(defence, [page.image], read, asked=asked, seeds=plan.seeds)
        measures = []
        for number, size in enumerate(TEXT_SIZES_PX):
            own = range(number * plan.lines, number * plan.lines + len(chosen[size]))
            errors = [
                np.mean([edit_distance(texts[n], lines[n].text) for texts in said]) for n in own
            ]
            lengths = [len(lines[n].text) for n in own]
            measures.append(("reading", f"character_error@{size}px", ratio(errors, lengths)))
        threat = Threat(tier=Tier.CLEAN, attack="none")
        rows += rows_under(
            threat, measures, defence=defence.name, victim="pp-ocr-v6", seeds=plan.seeds
        )
    return rows


def _drawn(page: Document, size_px: int, plan: Large) -> list[TextLine]:
    """Some lines of one text size, from all over the page."""
    column = TEXT_SIZES_PX.index(size_px)
    own = [
        line
        for line in page.lines
        if int(line.box[0]) // WIDTH_PX % len(TEXT_SIZES_PX) == column and len(line.text) > 1
    ]
    order = np.random.default_rng([plan.seed, size_px]).permutation(len(own))
    return [own[n] for n in order[: plan.lines]]


def _crop(image: np.ndarray, line: TextLine, width_px: int) -> np.ndarray:
    """A line with a margin, of a page that may have been scaled."""
    scale = image.shape[1] / width_px
    left, top, right, bottom = line.box
    edges = (left - _MARGIN_PX, top - _MARGIN_PX, right + _MARGIN_PX, bottom + _MARGIN_PX)
    first, above, last, below = (max(0, round(edge * scale)) for edge in edges)
    return image[above:below, first:last].copy()


@dataclass(frozen=True, slots=True)
class _Shown:
    """A scene and its questions."""

    image: np.ndarray
    questions: Sequence[dict[str, str]]


def _mosaic_rows(plan: Large, victim: Victim, responder: Responder, purifier: Defence) -> list[Row]:
    """What the model says of scenes that were purified as parts of one large picture."""
    rows: list[Row] = []
    tiled, alone = _in_tiles(purifier, Tiling(whole_px=1)), replace(purifier, name="alone")
    for kind in ("attacked", "clean"):
        shown = _shown(plan, kind)
        side_px, across = shown[0].image.shape[0], max(1, round(len(shown) ** 0.5))
        num = len(shown) // across * across
        whole = np.concatenate(
            [np.hstack([s.image for s in shown[n : n + across]]) for n in range(0, num, across)]
        )
        ask = partial(_answers_of_parts, victim, side_px, shown[:num])
        threat = Threat(tier=Tier.OBLIVIOUS if kind == "attacked" else Tier.CLEAN, attack=kind)
        for defence in (NO_DEFENCE, purifier, tiled, alone):
            images = [each.image for each in shown[:num]] if defence is alone else [whole]
            found = responder(defence, images, ask, asked=victim.sha256, seeds=plan.seeds)
            rows += rows_under(
                threat,
                [("vqa", "accuracy", _rate(found))],
                defence=defence.name,
                victim=victim.name,
                seeds=plan.seeds,
            )
    return rows


def _shown(plan: Large, kind: str) -> list[_Shown]:
    entries = gallery_entries(plan.gallery)
    return [
        _Shown(decode_png((plan.gallery / entry[kind]).read_bytes()), entry["questions"])
        for entry in entries
    ]


def _answers_of_parts(
    victim: Victim, side_px: int, shown: Sequence[_Shown], images: Sequence[np.ndarray]
) -> list[list[int]]:
    """Of the scenes, or of one picture that is cut into them: right answers, and all."""
    parts = [
        image[top : top + side_px, left : left + side_px]
        for image in images
        for top in range(0, image.shape[0], side_px)
        for left in range(0, image.shape[1], side_px)
    ]
    prompts = [[question["question"] for question in scene.questions] for scene in shown]
    said = generate(victim, parts, prompts, max_new_tokens=MAX_ANSWER_TOKENS)
    return [_counted(*each) for each in zip(said, shown, strict=True)]


def _scaling_rows(
    plan: Large, victim: Victim, responder: Responder, purifier: Defence
) -> list[Row]:
    """What the model says of uploads once they are scaled to its own size."""
    shown = _shown(plan, "clean")[: plan.scenes]
    side_px = shown[0].image.shape[0]
    smaller = _area(2 * side_px)
    defences = [NO_DEFENCE, purifier, smaller, _behind(smaller, purifier)]
    hidden = [*shown[1:], shown[0]]
    rows: list[Row] = []
    for hides, resampling in [(False, Resampling.BILINEAR), *((True, each) for each in Resampling)]:
        uploads = _uploads(plan, shown, hidden, resampling if hides else None)
        label = resampling.value if hides else "none"
        threat = Threat(tier=Tier.OBLIVIOUS, attack=label, family=Family.SCALING, held_out=True)
        ask = partial(_answers, victim, resampling, side_px, shown, hidden)
        for defence in defences:
            asked = [victim.sha256, resampling.value, side_px]
            found = responder(defence, uploads, ask, asked=asked, seeds=plan.seeds)
            measures = [
                ("vqa", metric, _rate([each[number] for each in found]))
                for number, metric in enumerate(("accuracy", "hidden_accuracy"))
            ]
            rows += rows_under(
                threat, measures, defence=defence.name, victim=victim.name, seeds=plan.seeds
            )
    return rows


def _uploads(
    plan: Large,
    shown: Sequence[_Shown],
    hidden: Sequence[_Shown],
    resampling: Resampling | None,
) -> list[np.ndarray]:
    """Scenes enlarged, with others hidden in them where there is a filter to hide them for."""
    side_px = plan.factor * shown[0].image.shape[0]
    covers = [
        np.asarray(Image.fromarray(each.image).resize((side_px, side_px), Image.Resampling.BICUBIC))
        for each in shown
    ]
    if resampling is None:
        return covers
    inside = dequantise(torch.from_numpy(np.stack([each.image for each in hidden])))
    attack = ImageScaling(hidden=inside, resampling=resampling, steps=plan.steps)
    floats = dequantise(torch.from_numpy(np.stack(covers)))
    return list(quantise(attack(floats, lambda images: images.flatten(1).sum(1))).numpy())


def _answers(
    victim: Victim,
    resampling: Resampling,
    side_px: int,
    shown: Sequence[_Shown],
    hidden: Sequence[_Shown],
    images: Sequence[np.ndarray],
) -> list[list[list[int]]]:
    """Of the questions about what is seen, and about what is hidden: right ones, and all."""
    floats = dequantise(torch.from_numpy(np.stack(images)))
    scaled: Tensor = scale_down(floats, side_px, side_px, resampling)
    seen = list(quantise(scaled).numpy())
    found = []
    for scenes in (shown, hidden):
        prompts = [[question["question"] for question in scene.questions] for scene in scenes]
        said = generate(victim, seen, prompts, max_new_tokens=MAX_ANSWER_TOKENS)
        found.append([_counted(*each) for each in zip(said, scenes, strict=True)])
    return found


def _counted(said: Sequence[str], scene: _Shown) -> list[int]:
    pairs = zip(said, scene.questions, strict=True)
    return [sum(is_match(text, asked["answer"]) for text, asked in pairs), len(said)]


def _rate(counts: Sequence[Sequence[Sequence[int]]]) -> Estimate:
    right, asked = np.mean(counts, axis=0).T
    return ratio(right, asked, n=int(asked.sum()))
