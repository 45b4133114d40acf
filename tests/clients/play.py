"""Plays a client's script in the client's own environment: `python play.py SCRIPT CASE`.

A script has `ROWS`: by its name, what plays one row of the table. A row is made with a `Case` and
has a method for each of `SCENARIOS`, which fails if the client's own objects are not as they should
be. A string in a method's place says why the client has no such thing. `refusals` yields what is
refused, and a function that asks for it; `sentence` takes the sentence out of the client's own
exception. Prints the outcomes as JSON: nothing for what works, else what went wrong.
"""

import asyncio
import importlib.util
import inspect
import json
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

SCENARIOS = ("chat", "stream", "images", "tools", "errors", "second_turns")


@dataclass(frozen=True)
class Case:
    """What a client is given.

    Attributes:
        url: Where it asks, without `/v1`.
        key: What it says who it is with.
        files: Two pictures, PNG.
        is_guarded: Whether the service is there, or the model alone.
        gateway: Whose proxy stands in between: it has words of its own for errors.
    """

    url: str
    key: str
    files: tuple[Path, ...]
    is_guarded: bool = True
    gateway: str = ""

    question = "What is in this picture?"
    told = "a red car"
    # Prompts for which the model has mishaps.
    missing, too_long = "mishap missing", "mishap too-long"
    busy, breaks = "mishap busy", "mishap breaks"
    input_tokens, output_tokens = 11, 7
    remote_url = "https://pictures.example/a.png"

    def says(self, pictures=0, turns=1, told=""):
        """What the model answers."""
        return f"{pictures} pictures in {turns} turns" + (f"; told {told}" if told else "")

    @property
    def pictures(self):
        """Their bytes."""
        return [file.read_bytes() for file in self.files]


def play(rows, case, only=""):
    """The outcomes of every row."""
    chosen = {name: row for name, row in rows.items() if only in {"", name}}
    return {name: _play_row(row, case) for name, row in chosen.items()}


def _play_row(row, case):
    outcomes = {}
    for name in SCENARIOS:
        # A client of its own for each: no connection, no loop, no memory is carried over.
        scenario = getattr(row(case), name)
        outcomes[name] = {"not": scenario} if isinstance(scenario, str) else _attempt(scenario)
    refused = {}
    if case.is_guarded and hasattr(row, "refusals"):
        for what in dict(row(case).refusals()):
            refused[what] = _refusal(dict(row(case).refusals())[what], row.sentence)
    return {"scenarios": outcomes, "refused": refused}


def _run(function):
    result = function()
    if inspect.isawaitable(result):
        asyncio.run(_wait(result))


async def _wait(result):
    await result


def _attempt(scenario):
    try:
        _run(scenario)
    except Exception as error:
        return {"wrong": account_of(error)}
    return {}


def _refusal(ask, sentence):
    try:
        _run(ask)
    except Exception as error:
        try:
            return {"sentence": sentence(error)}
        except Exception as other:
            return {"wrong": account_of(other)}
    return {"wrong": "it was not refused"}


def account_of(error):
    """Where a script failed, and of what."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "scripts" in f.filename]
    places = [f"{frame.lineno}: {frame.line}" for frame in frames]
    return "\n".join([*places, f"{type(error).__name__}: {error}"[:600]])


def raised(kind, ask):
    """The exception of a kind that a function raises."""
    try:
        ask()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def load(path):
    spec = importlib.util.spec_from_file_location("script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    # A script imports `raised` from here.
    sys.modules["play"] = sys.modules["__main__"]
    given = json.loads(sys.argv[2])
    given["files"] = tuple(map(Path, given["files"]))
    row = given.pop("row", "")
    json.dump(play(load(sys.argv[1]).ROWS, Case(**given), row), sys.stdout)
