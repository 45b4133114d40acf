"""Object kinds and sign words of the embedded world, for the compositor and the language."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KINDS", "SIGN_WORDS", "Kind"]


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
