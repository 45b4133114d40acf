"""Pages, screens and receipts: what they say, composed from word lists, and how they are drawn.

Everything comes from a seed: the same arguments draw the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from codefend.lab.documents.document import Canvas, Color, Document, Font, Fonts, Style

__all__ = [
    "TEXT_SIZES_PX",
    "documents",
    "draw_page",
    "draw_receipt",
    "draw_screen",
    "sentences",
]

TEXT_SIZES_PX = (10, 12, 16, 24, 32)
WIDTH_PX = 512

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


def documents(
    fonts: Fonts,
    *,
    num: int,
    text_sizes_px: Sequence[int] = TEXT_SIZES_PX,
    seed: int = 0,
) -> list[Document]:
    """Documents of every kind in every size.

    Args:
        fonts: typefaces.
        num: how many of each kind and size.
        text_sizes_px: em sizes.
        seed: of all texts.
    """
    kinds: tuple[Callable[..., Document], ...] = (draw_page, draw_screen, draw_receipt)
    return [
        draw(index, size_px, fonts, seed=seed)
        for draw in kinds
        for size_px in text_sizes_px
        for index in range(num)
    ]


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def sentences(rng: np.random.Generator) -> Iterator[str]:
    """One sentence after the other, without end."""
    while True:
        text = f"{_pick(rng, _SUBJECTS)} {_pick(rng, _ACTIONS)}"
        form = rng.integers(3)
        if form == 0:
            text = f"{text} {_pick(rng, _TIMES)}"
        elif form == 1:
            text = f"{_pick(rng, _TIMES)}, {text}"
        else:
            second = f"{_pick(rng, _SUBJECTS)} {_pick(rng, _ACTIONS)}"
            text = f"{text}, {_pick(rng, _LINKS)} {second}"
        yield f"{text[0].upper()}{text[1:]}."


NUM_LINES = 9
_PAPERS: tuple[Color, ...] = ((255, 255, 255), (250, 246, 236), (238, 240, 243))
_PAGE_INK: Color = (24, 24, 28)
_STYLES: tuple[Style, ...] = ("serif", "sans")


def draw_page(index: int, text_size_px: int, fonts: Fonts, *, seed: int = 0) -> Document:
    """Nine lines of sentences, dark on light paper, as wide as 512 pixels allow.

    Args:
        index: which page; serif and sans serif faces and papers take turns.
        text_size_px: em size.
        fonts: typefaces.
        seed: of the text.
    """
    rng = np.random.default_rng([seed, 0, index])
    font = fonts.font(_STYLES[index % 2], text_size_px, index // 2)
    margin_px, pitch_px = text_size_px, round(1.4 * text_size_px)
    height_px = 2 * margin_px + NUM_LINES * pitch_px
    canvas = Canvas.blank(WIDTH_PX, height_px, _PAPERS[index % len(_PAPERS)])
    lines = _wrapped(sentences(rng), font, WIDTH_PX - 2 * margin_px)
    for number in range(NUM_LINES):
        canvas.write((margin_px, margin_px + number * pitch_px), next(lines), font, _PAGE_INK)
    return canvas.finish(kind="page", text_size_px=text_size_px, index=index)


def _wrapped(texts: Iterator[str], font: Font, width_px: int) -> Iterator[str]:
    """Fills lines with whole words."""
    line = ""
    for text in texts:
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width_px:
                yield line
                longer = word
            line = longer


NUM_ENTRIES = 5
_LIGHT: Mapping[str, Color] = {
    "paper": (255, 255, 255),
    "bar": (232, 236, 242),
    "bar_ink": (28, 30, 34),
    "button": (226, 230, 236),
    "button_ink": (30, 34, 40),
    "ink": (28, 30, 34),
    "faint_ink": (104, 110, 120),
    "rule": (222, 224, 228),
}
_DARK: Mapping[str, Color] = {
    "paper": (30, 31, 34),
    "bar": (44, 46, 51),
    "bar_ink": (240, 240, 242),
    "button": (56, 60, 68),
    "button_ink": (245, 246, 250),
    "ink": (226, 227, 230),
    "faint_ink": (160, 164, 172),
    "rule": (58, 60, 66),
}


def draw_screen(index: int, text_size_px: int, fonts: Fonts, *, seed: int = 0) -> Document:
    """A window 512 pixels wide: title bar, buttons, a list and a status bar.

    Args:
        index: which window; even ones are light, odd ones dark.
        text_size_px: em size of every text in it.
        fonts: typefaces.
        seed: of the texts.
    """
    rng = np.random.default_rng([seed, 1, index])
    theme = _DARK if index % 2 else _LIGHT
    font = fonts.font("sans", text_size_px, index // 2)
    row_px = round(1.9 * text_size_px)
    canvas = Canvas.blank(WIDTH_PX, (NUM_ENTRIES + 4) * row_px, theme["paper"])
    canvas.draw.rectangle((0, 0, WIDTH_PX, row_px), fill=theme["bar"])
    canvas.write((0.5 * row_px, 0.2 * row_px), _label(rng), font, theme["bar_ink"])
    _draw_buttons(canvas, [_label(rng).split()[0] for _ in range(4)], font, theme, row_px)
    for number in range(NUM_ENTRIES):
        top = round((2.6 + number) * row_px)
        canvas.draw.line((0, top, WIDTH_PX, top), fill=theme["rule"])
        name, state = _label(rng), _value(rng)
        canvas.write((0.5 * row_px, top + 0.2 * row_px), name, font, theme["ink"])
        left = WIDTH_PX - 0.5 * row_px - font.getlength(state)
        if left > 1.2 * row_px + font.getlength(name):
            canvas.write((left, top + 0.2 * row_px), state, font, theme["faint_ink"])
    top = canvas.image.height - row_px
    canvas.draw.line((0, top, WIDTH_PX, top), fill=theme["faint_ink"])
    text = f"{rng.integers(2, 90)} items"
    canvas.write((0.5 * row_px, top + 0.2 * row_px), text, font, theme["faint_ink"])
    return canvas.finish(kind="screen", text_size_px=text_size_px, index=index)


def _draw_buttons(
    canvas: Canvas, words: Sequence[str], font: Font, theme: Mapping[str, Color], row_px: int
) -> None:
    """As many as there is room for."""
    left, top = 0.4 * row_px, 1.35 * row_px
    for word in words:
        right = left + font.getlength(word) + 0.8 * row_px
        if right > WIDTH_PX:
            return
        box = (left, top, right, top + 0.95 * row_px)
        canvas.draw.rounded_rectangle(box, radius=row_px / 6, fill=theme["button"])
        canvas.write((left + 0.4 * row_px, top + 0.2 * row_px), word, font, theme["button_ink"])
        left = right + 0.3 * row_px


def _label(rng: np.random.Generator) -> str:
    """What a button or an entry of a list says."""
    return f"{_pick(rng, _VERBS)} {_pick(rng, _NOUNS)}"


def _value(rng: np.random.Generator) -> str:
    """What stands at the right of an entry: a state, a number or a time."""
    form = rng.integers(3)
    if form == 0:
        return _pick(rng, _VALUES)
    if form == 1:
        return f"{rng.integers(2, 990)} MB"
    return f"{rng.integers(0, 24):02d}:{rng.integers(0, 60):02d}"


NUM_COLUMNS = 24
NUM_WARES = 6
_TILL_PAPER: Color = (252, 251, 247)
_TILL_INK: Color = (52, 52, 58)


def draw_receipt(index: int, text_size_px: int, fonts: Fonts, *, seed: int = 0) -> Document:
    """A till receipt in a fixed-width face: names at the left, prices at the right.

    It has a shop's name, six wares, a total that adds up, and a date.

    Args:
        index: which receipt.
        text_size_px: em size.
        fonts: typefaces.
        seed: of the wares.
    """
    rng = np.random.default_rng([seed, 2, index])
    font = fonts.font("mono", text_size_px, index)
    advance_px, pitch_px = font.getlength("0"), round(1.35 * text_size_px)
    rows = _receipt_rows(rng)
    width_px = round((NUM_COLUMNS + 2) * advance_px)
    canvas = Canvas.blank(width_px, (len(rows) + 2) * pitch_px, _TILL_PAPER)
    for number, (left, right) in enumerate(rows):
        top_px = (1 + number) * pitch_px
        canvas.write((advance_px, top_px), left, font, _TILL_INK)
        end_px = width_px - advance_px - font.getlength(right)
        canvas.write((end_px, top_px), right, font, _TILL_INK)
    return canvas.finish(kind="receipt", text_size_px=text_size_px, index=index)


def _receipt_rows(rng: np.random.Generator) -> list[tuple[str, str]]:
    prices = [int(rng.integers(45, 2500)) for _ in range(NUM_WARES)]  # in hundredths
    date = f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.{rng.integers(2015, 2027)}"
    time = f"{rng.integers(8, 21):02d}:{rng.integers(0, 60):02d}"
    return [
        (_pick(rng, _SHOPS), ""),
        (date, time),
        ("", ""),
        *((_pick(rng, _WARES), _price(price)) for price in prices),
        ("", ""),
        ("TOTAL", _price(sum(prices))),
        (f"Receipt no. {rng.integers(1000, 9999)}", ""),
        ("Thank you for your visit", ""),
    ]


def _price(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02d}"
