"""The command line: record, compare, trace, structure."""

import json
import lzma
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Measures the house from outside.", no_args_is_help=True)
SHIPPED = Path(__file__).with_name("requests.json.xz")
Group = Annotated[str | None, typer.Option(help="Play this group alone.")]


@app.command()
def record(file: Path, group: Group = None) -> None:
    """Play all requests and write what came of them."""
    from tests.house.recording import record as play_all
    from tests.house.recording import write

    played = play_all(group)
    write(played, file)
    typer.echo(f"{sum(len(told['cases']) for told in played.values())} requests in {file}")


@app.command()
def compare(file: Annotated[Path, typer.Argument()] = SHIPPED, group: Group = None) -> None:
    """Play all requests and say what differs from a recording, which may be packed by xz.

    The one that lies here says what the service answered before it was rebuilt.
    """
    from tests.house.recording import differences
    from tests.house.recording import record as play_all

    before, after = read(file), play_all(group)
    if group is not None:
        before = {group: before[group]}
    report(list(differences(before, json.loads(json.dumps(after)))))


@app.command()
def diff(before: Path, after: Path) -> None:
    """Say what differs between two recordings."""
    from tests.house.recording import differences

    report(list(differences(read(before), read(after))))


@app.command()
def trace(calls: Annotated[bool, typer.Option(help="List every call too.")] = False) -> None:
    """Count modules, calls and hops of one warm /v1/vqa in the API process."""
    from tests.house.tracing import summarise
    from tests.house.tracing import trace as trace_one

    entered = trace_one()
    for name, value in summarise(entered).items():
        show(name, value)
    if calls:
        for _, line, is_first in entered:
            typer.echo(f"{'  ' if is_first else '  ... '}{line}")


@app.command()
def structure(root: Path = Path()) -> None:
    """Count modules, importers, statements, functions, words."""
    from tests.house.structure import measure

    for name, value in measure(root.resolve()).items():
        show(name, value)


@app.command()
def constraints() -> None:
    """Pin every package that is needed to the version that is installed."""
    from tests.house.constraints import FILE, write_constraints

    write_constraints()
    typer.echo(f"wrote {FILE}")


def read(file: Path) -> Any:
    """A recording."""
    content = file.read_bytes()
    return json.loads(lzma.decompress(content) if file.suffix == ".xz" else content)


def show(name: str, value: object) -> None:
    if isinstance(value, dict):
        value = [f"{key}: {inner}" for key, inner in value.items()]
    if isinstance(value, list):
        typer.echo(f"{name}: {len(value)}" + "".join(f"\n    {entry}" for entry in value))
    else:
        typer.echo(f"{name}: {value}")


def report(found: list) -> None:
    for place, before, after in found:
        typer.echo(f"{place}\n  - {json.dumps(before, ensure_ascii=False)}")
        typer.echo(f"  + {json.dumps(after, ensure_ascii=False)}")
    typer.echo(f"{len(found)} differences")
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    app()
