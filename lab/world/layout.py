"""What there is, and what stands where in a scene, sampled.

The compositor and the language both read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

__all__ = [
    "CELL_NAMES",
    "KINDS",
    "SIGN_WORDS",
    "SPLITS",
    "Kind",
    "Layout",
    "Placed",
    "Split",
    "sample_layout",
]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
CELL_NAMES = (
    *("top left", "top", "top right"),
    *("left", "center", "right"),
    *("bottom left", "bottom", "bottom right"),
)
NUM_FACES = 3
SIGN_RATE = 0.25
SIGN_NAMES_OBJECT_RATE = 0.6
UNREADABLE_RATE = 0.12
_CELL_CENTERS = (0.2, 0.5, 0.8)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object: its name in captions, its category and its emoji code point."""

    name: str
    category: str
    code_point: str


_TABLE = {
    "animal": (
        "dog 1f436,cat 1f431,fox 1f98a,bear 1f43b,panda 1f43c,lion 1f981,frog 1f438,"
        "pig 1f437,cow 1f42e,"
        "rabbit 1f430,owl 1f989,penguin 1f427,fish 1f41f,butterfly 1f98b,turtle 1f422"
    ),
    "food": (
        "apple 1f34e,banana 1f34c,grapes 1f347,lemon 1f34b,melon 1f349,"
        "strawberry 1f353,carrot 1f955,"
        "pizza 1f355,burger 1f354,cake 1f370,donut 1f369,bread 1f35e,egg 1f373,"
        "cheese 1f9c0,corn 1f33d"
    ),
    "vehicle": (
        "car 1f697,taxi 1f695,bus 1f68c,truck 1f69a,tractor 1f69c,bicycle 1f6b2,scooter 1f6f5,"
        "plane 2708-fe0f,helicopter 1f681,rocket 1f680,ship 1f6a2,sailboat 26f5,train 1f682,"
        "ambulance 1f691,engine 1f692"
    ),
    "thing": (
        "umbrella 2614,key 1f511,clock 23f0,guitar 1f3b8,balloon 1f388,ball 26bd,"
        "book 1f4d5,camera 1f4f7,"
        "lamp 1f4a1,chair 1fa91,cup 2615,crown 1f451,bell 1f514,hat 1f3a9,phone 1f4f1"
    ),
}

KINDS: tuple[Kind, ...] = tuple(
    Kind(name=entry.split()[0], category=category, code_point=entry.split()[1])
    for category, entries in _TABLE.items()
    for entry in entries.split(",")
)

SIGN_WORDS: tuple[str, ...] = (
    *("dog", "cat", "fox", "cow", "owl", "apple", "lemon", "pizza", "cake", "egg"),
    *("car", "bus", "train", "ship", "taxi", "key", "clock", "book", "cup", "bell"),
    *("stop", "open", "exit", "sale", "hello", "news"),
)


@dataclass(frozen=True, slots=True)
class Placed:
    """One object or sign; lengths are fractions of the scene's side, the angle is in radians."""

    name: str
    cell: int
    x: float
    y: float
    side: float
    angle: float
    flipped: bool
    brightness: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that determines a scene's pixels and its truth.

    Attributes:
        objects: One to three, sorted by column, then row.
        sign: A board with a word, drawn from font ``sign_face``; ``sign_blur`` makes it unreadable.
        photo: Index into the split's photos.
        crop: Left, top and side of the background window, as fractions of what is possible.
    """

    objects: tuple[Placed, ...]
    sign: Placed | None
    sign_face: int
    sign_blur: bool
    photo: int
    crop: tuple[float, float, float]
    mirrored: bool


def sample_layout(rng: np.random.Generator, split: Split, num_photos: int) -> Layout:
    """Draw a layout whose every pair of kinds belongs to ``split``."""
    names = _sample_names(rng, split)
    has_sign = rng.random() < SIGN_RATE
    cells = _sample_cells(rng, len(names) + has_sign)
    objects = [_place(rng, name, cell) for name, cell in zip(names, cells, strict=False)]
    objects.sort(key=lambda placed: (placed.cell % 3, placed.cell // 3))
    word = _sample_word(rng, names)
    return Layout(
        objects=tuple(objects),
        sign=_place(rng, word, cells[-1], is_sign=True) if has_sign else None,
        sign_face=int(rng.integers(NUM_FACES)),
        sign_blur=bool(rng.random() < UNREADABLE_RATE),
        photo=int(rng.integers(num_photos)),
        crop=(float(rng.random()), float(rng.random()), float(rng.uniform(0.4, 1.0))),
        mirrored=bool(rng.random() < 0.5),
    )


def _sample_names(rng: np.random.Generator, split: Split) -> list[str]:
    """One to three kinds; with few partners in the split, the third may be impossible."""
    partners = _partners(split)
    wanted = int(rng.choice([1, 2, 3], p=[0.3, 0.4, 0.3]))
    chosen = [int(rng.integers(len(KINDS)))]
    allowed = partners[chosen[0]]
    while len(chosen) < wanted and allowed.any():
        chosen.append(int(rng.choice(np.flatnonzero(allowed))))
        allowed = allowed & partners[chosen[-1]]
    return [KINDS[index].name for index in chosen]


@cache
def _partners(split: Split) -> np.ndarray:
    """(kinds, kinds) bool: which unordered pairs may stand together in a split's scenes."""
    count = len(KINDS)
    draw = np.triu(np.random.default_rng(2510_11096).random((count, count)), 1)
    draw = draw + draw.T
    bands = {"train": (0.3, 1.0), "validation": (0.0, 0.1), "test": (0.1, 0.3)}
    low, high = bands[split]
    allowed: np.ndarray = (draw > low) & (draw <= high)
    np.fill_diagonal(allowed, False)
    return allowed


def _sample_cells(rng: np.random.Generator, num: int) -> list[int]:
    """Cells no two of which share an edge, so that objects hardly hide each other."""
    while True:
        cells = [int(cell) for cell in rng.permutation(9)[:num]]
        steps = [
            abs(a % 3 - b % 3) + abs(a // 3 - b // 3)
            for i, a in enumerate(cells)
            for b in cells[:i]
        ]
        if all(step >= 2 for step in steps):
            return cells


def _place(rng: np.random.Generator, name: str, cell: int, *, is_sign: bool = False) -> Placed:
    side = rng.uniform(0.40, 0.48) if is_sign else rng.uniform(0.30, 0.46)
    return Placed(
        name=name,
        cell=cell,
        x=_CELL_CENTERS[cell % 3] + float(rng.uniform(-0.05, 0.05)),
        y=_CELL_CENTERS[cell // 3] + float(rng.uniform(-0.05, 0.05)),
        side=float(side),
        angle=float(rng.uniform(-0.12, 0.12) if is_sign else rng.uniform(-0.45, 0.45)),
        flipped=bool(rng.random() < 0.5) and not is_sign,
        brightness=float(rng.uniform(0.85, 1.1)),
    )


def _sample_word(rng: np.random.Generator, names: list[str]) -> str:
    """Usually, but not always, the word names something in the scene."""
    present = [name for name in names if name in SIGN_WORDS]
    if present and rng.random() < SIGN_NAMES_OBJECT_RATE:
        return str(rng.choice(present))
    return str(rng.choice(SIGN_WORDS))
