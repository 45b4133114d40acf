"""English sentences, menu entries and wares, composed from word lists by a random generator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["amount", "label", "sentences", "shop", "value", "ware"]

_SUBJECTS = (
    *("the old gardener", "our neighbour", "a young engineer", "the night train", "my sister"),
    *("the committee", "a tall stranger", "the captain", "every visitor", "the new teacher"),
    *("a quiet librarian", "the farmer", "his uncle", "the first ferry", "a clever fox"),
    *("the museum", "their lawyer", "the weather office", "a busy baker", "the village council"),
)
_ACTIONS = (
    *("repaired the broken fence", "found a letter from the bank", "missed the last bus"),
    *("painted the kitchen door green", "sold two boxes of apples", "crossed the frozen lake"),
    *("opened a window and waited", "lost the keys to the cellar", "wrote a very long report"),
    *("bought a map of the harbour", "carried the piano upstairs", "asked for a cup of tea"),
    *("planted a row of young trees", "closed the road to the valley", "heard music in the garden"),
    *("kept the receipt in a drawer", "walked home through the rain", "counted the empty chairs"),
    *("watched the ships come in", "promised to answer by post", "forgot the name of the hotel"),
    *("saw smoke above the hills", "moved the meeting to Friday", "found the question quite easy"),
)
_TIMES = (
    *("early in the morning", "after the storm", "on the second of March", "last Tuesday"),
    *("before lunch", "at half past nine", "during the summer holidays", "in the spring of 1987"),
    *("without saying a word", "for the third time", "as soon as it was dark", "a week later"),
)
_LINKS = ("and", "but", "while", "so", "because", "although")
_VERBS = (
    *("Open", "Save", "Send", "Delete", "Rename", "Share", "Print", "Export", "Import", "Restore"),
    *("Search", "Close", "Edit", "Copy", "Archive", "Refresh"),
)
_NOUNS = (
    *("settings", "message", "account", "folder", "calendar", "password", "language", "picture"),
    *("contacts", "invoice", "backup", "network", "keyboard", "printer", "report", "project"),
    *("window", "volume", "updates", "payment", "address", "history", "privacy", "storage"),
)
_VALUES = ("On", "Off", "Default", "Never", "Today", "Shared", "Private", "Ready", "Paused", "New")
_WARES = (
    *("Brown bread", "Oat milk", "Green tea", "Butter", "Red apples", "Tomatoes", "Olive oil"),
    *("Coffee", "Rice", "Candles", "Batteries", "Soap", "Dark honey", "Goat cheese", "Carrots"),
    *("Notebook", "Pencils", "Lemons", "Sea salt", "Walnuts", "Eggs", "Yoghurt", "Pasta"),
)
_SHOPS = ("CORNER MARKET", "HARBOUR STORE", "VILLAGE BAKERY", "GREEN GROCER", "STATION KIOSK")


def sentences(rng: np.random.Generator) -> Iterator[str]:
    """One sentence after the other, without end."""
    while True:
        first = f"{_pick(rng, _SUBJECTS)} {_pick(rng, _ACTIONS)}"
        form = rng.integers(3)
        if form == 0:
            text = f"{first} {_pick(rng, _TIMES)}"
        elif form == 1:
            text = f"{_pick(rng, _TIMES)}, {first}"
        else:
            second = f"{_pick(rng, _SUBJECTS)} {_pick(rng, _ACTIONS)}"
            text = f"{first}, {_pick(rng, _LINKS)} {second}"
        yield f"{text[0].upper()}{text[1:]}."


def label(rng: np.random.Generator) -> str:
    """What a button or an entry of a list says."""
    return f"{_pick(rng, _VERBS)} {_pick(rng, _NOUNS)}"


def value(rng: np.random.Generator) -> str:
    """What stands at the right of an entry: a state, a number or a time."""
    form = rng.integers(3)
    if form == 0:
        return _pick(rng, _VALUES)
    if form == 1:
        return f"{rng.integers(2, 990)} MB"
    return f"{rng.integers(0, 24):02d}:{rng.integers(0, 60):02d}"


def ware(rng: np.random.Generator) -> str:
    """Something that is sold."""
    return _pick(rng, _WARES)


def shop(rng: np.random.Generator) -> str:
    """The name of a shop, in capitals."""
    return _pick(rng, _SHOPS)


def amount(rng: np.random.Generator) -> int:
    """A price in hundredths."""
    return int(rng.integers(45, 2500))


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
