"""Writes docs/performance.md out of the results: `python -m benchmarks.page`, part of `make docs`.

Every results file has its section: a table of its own where a reader is helped by one, else its
rows as they are. Tests say when the page has to be written anew.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.plots import PICTURES, draw_pictures
from benchmarks.report import RESULTS
from codefend.lab.experiments.report import fit_page
from codefend.lab.experiments.table import Table, pivot

__all__ = ["PAGE", "read_results", "write_page"]

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
PICTURES_FOLDER = PAGE.with_suffix("")

Row = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Any]]
"""What the JSON files hold, by name and device: `codec-cpu`."""

HEAD = """\
# Performance

<!-- Written by `make docs` from benchmarks/results; do not edit it by hand. -->

`make bench` measures all of this on your machine, in a quarter of an hour on two quiet cores.
`python -m benchmarks NAME` measures one part.
Every figure stands beside a baseline of the same run; *ratio* is the figure divided by it.
Percentiles are of single operations.
What each was measured on, and what disturbed it, stands [at the end](#circumstances).
"""


@dataclass(frozen=True, slots=True)
class _Section:
    """How one benchmark is shown: a heading, what was done, and its rows as a table."""

    heading: str
    prose: str
    table: Callable[[Sequence[Row]], Table]


def write_page() -> str:
    """Writes the page and its pictures; returns the page."""
    results = read_results()
    draw_pictures(results, PICTURES_FOLDER)
    text = page(results)
    PAGE.write_text(text, encoding="utf-8")
    return text


def read_results(folder: Path = RESULTS) -> Results:
    """All results files, in the order of the page."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")
    }
    places = {name: place for place, name in enumerate(SECTIONS)}
    order = sorted(found, key=lambda stem: (places.get(_name_of(stem), len(places)), stem))
    return {stem: found[stem] for stem in order}


def page(results: Results) -> str:
    """The whole page."""
    parts = [HEAD.strip()]
    for stem, document in results.items():
        section = SECTIONS.get(_name_of(stem), _Section(_name_of(stem).capitalize(), "", _plain))
        device = stem.partition("-")[2]
        heading = section.heading if device == "cpu" else f"{section.heading}, {device}"
        parts += [f"## {heading}", section.prose, section.table(document["rows"]).markdown()]
        parts += [
            f"![{picture.caption}](performance/{stem}.png)"
            for name, picture in PICTURES.items()
            if name == _name_of(stem)
        ]
    parts += ["## Circumstances", _circumstances(results).markdown()]
    return fit_page("\n\n".join(part for part in parts if part)) + "\n"


def _name_of(stem: str) -> str:
    return stem.partition("-")[0]


def _circumstances(results: Results) -> Table:
    lines = []
    for stem, document in results.items():
        meta = document["meta"]
        versions = meta["versions"]
        lines.append(
            [
                stem,
                meta["device"],
                meta["commit"][:8] + ("-dirty" if meta["commit"].endswith("-dirty") else ""),
                meta["date"][:10],
                _digits(meta.get("load")),
                f"{versions.get('python')}, {versions.get('torch')}",
                "; ".join(meta.get("warnings", [])),
            ]
        )
    heads = ("results", "device", "commit", "date", "load", "Python, torch", "beware")
    return Table(heads, lines)


def _plain(rows: Sequence[Row]) -> Table:
    """Rows as they are; columns that are empty throughout are left out."""
    heads = ("what", "figure", "p50, ms", "p95, ms", "p99, ms", "baseline", "ratio")
    lines = [
        [
            row["name"].replace("_", " "),
            f"{_digits(row['value'])} {row['unit']}",
            *(_digits(row[f"p{rank}_ms"]) for rank in (50, 95, 99)),
            _baseline(row),
            _digits(row["ratio"]),
        ]
        for row in rows
    ]
    kept = [n for n in range(len(heads)) if any(line[n] for line in lines)]
    return Table([heads[n] for n in kept], [[line[n] for n in kept] for line in lines])


def _baseline(row: Row) -> str:
    if row["baseline"] is None:
        return ""
    against = row["config"].get("baseline", "")
    return f"{_digits(row['baseline'])} ({against})" if against else _digits(row["baseline"])


def _rates(rows: Sequence[Row]) -> Table:
    """A line for each rate."""
    by_share = pivot(
        (row for row in rows if "share" in row["config"]),
        lambda row: row["config"]["share"],
        lambda row: row["name"].partition("_at_")[0],
    )
    heads = (
        *("of capacity", "sent, 1/s", "answered, 1/s", "refused", "p50, ms", "p95, ms", "p99, ms"),
        *("decode", "queue", "purify", "encode", "service, cores", "sender, cores"),
    )
    lines = []
    for share, found in by_share.items():
        goodput = found["goodput"]
        lines.append(
            [
                f"{share:.0%}",
                _digits(goodput["config"]["requests_per_second"]),
                _digits(goodput["value"]),
                f"{found['refused']['ratio'] or 0:.0%}",
                *(_digits(goodput[f"p{rank}_ms"]) for rank in (50, 95, 99)),
                *(
                    _digits(found[stage]["value"])
                    for stage in ("decode", "queue", "purify", "encode")
                ),
                *(_digits(found[f"{who}_processors"]["value"]) for who in ("service", "sender")),
            ]
        )
    return Table(heads, lines)


def _codec(rows: Sequence[Row]) -> Table:
    """A line for each file, the sides beside each other."""
    heads = ["processor ms"]
    sides = list(dict.fromkeys(row["config"]["side_px"] for row in rows))
    found = pivot(rows, lambda row: row["name"], lambda row: row["config"]["side_px"])
    names = [name for name in found if f"decode, {name} and data URL" in found]
    for side in sides:
        heads += [f"{side}²: encode", "Pillow", "with decoding", "kB"]
    lines = []
    for name in names:
        cells = [name]
        for side in sides:
            cells += [
                _digits(found[name][side]["value"]),
                _digits(found[name][side]["baseline"]),
                _digits(found[f"decode, {name} and data URL"][side]["value"]),
                _kilobytes(found.get(f"{name} bytes", {}).get(side)),
            ]
        lines.append(cells)
    return Table(heads, lines)


def _kilobytes(row: Row | None) -> str:
    return "" if row is None else _digits(row["value"] / 1000)


def _overhead(rows: Sequence[Row]) -> Table:
    """What each server takes, a line for each kind of request and number of clients."""
    rated = [row for row in rows if row["unit"] == "requests/s"]
    lines = []
    for row in rated:
        config = row["config"]
        label = f"{config['body']}_x{config['clients']}_"
        name = row["name"].removeprefix(label)
        cpu = next(each for each in rows if each["name"] == f"{row['name']}_processor")
        lines.append(
            [
                f"{config['body']}, {config['clients']} clients",
                name.replace("_", " "),
                _digits(row["value"]),
                *(_digits(row[f"p{rank}_ms"]) for rank in (50, 95, 99)),
                _digits(cpu["value"]),
            ]
        )
    heads = ("request", "server", "1/s", "p50, ms", "p95, ms", "p99, ms", "processor, ms")
    return Table(heads, lines)


def _digits(value: float | None) -> str:
    """Three digits that count; whole numbers of a thousand and more with commas."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


SECTIONS: Mapping[str, _Section] = {
    "engine": _Section(
        "The engine alone",
        "The purifier without a service around it, every backend in turns, each in a process "
        "of its own.",
        _plain,
    ),
    "growth": _Section(
        "Growth",
        "The engine over sizes and batches, and the service over clients at once. Where a picture "
        "costs what its pixels cost, megapixels in a second of a processor are the same for all.",
        _plain,
    ),
    "start": _Section(
        "From the command to ready",
        "The service with its embedded model, from the command to `/readyz`: cold, when its "
        "networks are converted first, and warm; beside the same with torch.",
        _plain,
    ),
    "latency": _Section(
        "One image at a time",
        "The whole of `/v1/purify`, from the first byte sent to the last byte received, "
        "beside the engine alone.",
        _plain,
    ),
    "rates": _Section(
        "At rising rates",
        "Images of 128×128 to 256×256 come at random times (a Poisson process), whether those"
        " before them are answered or not. The capacity is what twelve patient clients get in"
        " the same run. Stages are means in milliseconds; the sender's processors are counted"
        " apart, though it shares the machine.",
        _rates,
    ),
    "service": _Section(
        "Many clients",
        "Each sends its next image when it has its answer; sizes are mixed.",
        _plain,
    ),
    "overload": _Section(
        "Overload",
        "Ten times as many requests as can be answered.",
        _plain,
    ),
    "uploads": _Section(
        "Large uploads",
        "`/healthz` while 12-megapixel photographs are in flight; *all inside* has a deadline"
        " so long that none is refused.",
        _plain,
    ),
    "overhead": _Section(
        "The proxy alone",
        "Purification off, before a model that answers at once, beside that model asked "
        "directly and, where it is installed, the LiteLLM proxy. `identity` decodes, encodes "
        "and purifies nothing.",
        _overhead,
    ),
    "protocols": _Section(
        "Protocols",
        "Each protocol beside chat, with an engine that gives pictures back.",
        _plain,
    ),
    "codec": _Section(
        "Files",
        "A JPEG decoded, and the purified picture written: processor time of the functions "
        "that the decode and encode processes run. JPEGs from 90 on keep their colours whole.",
        _codec,
    ),
    "large": _Section(
        "One client with 25 megapixels",
        "Beside another one with small pictures: as it comes, with a deadline that lets large "
        "pictures run in tiles, and with large pictures scaled down.",
        _plain,
    ),
    "gradients": _Section(
        "Gradients",
        "What attacks and adversarial training wait for.",
        _plain,
    ),
}
"""How benchmarks are shown, in the order of the page; others come after them, as they are."""


if __name__ == "__main__":
    write_page()
