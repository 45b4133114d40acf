"""The table of clients: what is asked of each, what came out, and docs/clients.md."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.play import SCENARIOS

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
HEAD = """\
# Clients

<!-- Written by `make test-clients` out of what the clients said; do not edit it by hand. -->

Each client runs in an environment of its own, pinned in `tests/clients/locks/`,
against the service before a model that speaks all three protocols.
A *yes* is the client's own word: its objects hold what the model said,
and its exceptions are those that the model alone would have raised.
The model saw every picture as this service purified it, and no original.

"""
LEGEND = """
- **chat**: a system prompt, a question, an answer, its usage;
- **stream**: the same piece by piece, with a picture;
- **images**: two pictures, and structured output about one;
- **tools**: a call, its result, and the answer, whole and streamed;
- **errors**: an unknown model, a prompt that is too long, a model that is busy, a wrong key;
- **second turns**: the client's own record of the first turn, with its picture, is sent again.
"""
BASE_URLS = """
## Where the base URL goes

"""
REFUSED = """
## What is refused

The clients raise what they raise for a 400, with this sentence in it; LiteLLM quotes it.
[Upstreams](upstreams.md) says what opens a field.

"""
COLUMNS = 150


@dataclass(frozen=True)
class Row:
    """One client over one protocol.

    Attributes:
        client: Its title.
        version: Of its package.
        protocol: The name of the script's row.
        outcomes: What `play` says of each scenario.
        refused: What it says of each refusal.
        complaints: What the model says of the pictures that it got.
    """

    client: str
    version: str
    protocol: str
    outcomes: dict
    refused: dict = field(default_factory=dict)
    complaints: tuple = ()

    def faults(self):
        """What is wrong, by what it is wrong with."""
        attempts = self.outcomes | self.refused
        wrong = {name: said["wrong"] for name, said in attempts.items() if "wrong" in said}
        silent = [what for what, said in self.refused.items() if not said.get("sentence", "x")]
        wrong |= dict.fromkeys(silent, "it was refused without a sentence")
        return wrong | ({"pictures": "; ".join(self.complaints)} if self.complaints else {})

    def cells(self):
        """Its line in the table."""
        marks = [mark(self.outcomes[name]) for name in SCENARIOS]
        return [self.client, self.version, self.protocol, *marks]


def mark(outcome):
    """The word for one outcome."""
    if "wrong" in outcome:
        return "**no**"
    return "–" if "not" in outcome else "yes"


def page(rows, base_urls):
    """The whole page.

    Args:
        rows: In the order of the table.
        base_urls: Where each client's base URL goes, by its title.
    """
    heads = ["client", "version", "protocol", *(name.replace("_", " ") for name in SCENARIOS)]
    lines = [heads, ["---"] * len(heads), *(row.cells() for row in rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    reasons = [
        f"- {row.client}, {row.protocol}, {name.replace('_', ' ')}: {outcome['not']}\n"
        for row in rows
        for name, outcome in row.outcomes.items()
        if "not" in outcome
    ]
    urls = "".join(f"- {title}: {where}\n" for title, where in base_urls.items())
    return "".join([HEAD, table, LEGEND, *reasons, BASE_URLS, urls, REFUSED, refusals(rows)])


def refusals(rows):
    """The list of what is refused, with the sentence of each protocol."""
    said = {}
    for row in rows:
        for what, outcome in row.refused.items():
            if outcome.get("sentence", "").startswith("litellm."):
                continue  # LiteLLM quotes the sentence in words of its own
            protocols = said.setdefault((what, outcome.get("sentence", "")), [])
            if row.protocol not in protocols:
                protocols.append(row.protocol)
    return "".join(
        f"- {what} ({', '.join(protocols)}):\n{wrap(sentence)}"
        for (what, sentence), protocols in sorted(said.items())
    )


def wrap(sentence):
    """A quoted sentence in lines of the page's width."""
    lines = [""]
    for word in f"“{sentence}”".split():
        if len(lines[-1]) + len(word) > COLUMNS:
            lines.append("")
        lines[-1] += f" {word}"
    return "".join(f"  {line.strip()}\n" for line in lines)
