"""`python -m tests.fuzz`: mutated images in the decode process and over HTTP, the contract, plants.

Ends with 1 if anything was found; the inputs are then in tests/fuzz/corpus, and are tests from
there on.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from tests.fuzz.contract import fuzz_contract
from tests.fuzz.decode_run import fuzz_decoding
from tests.fuzz.http_run import fuzz_http
from tests.fuzz.planted_run import GROUNDS, plant_in_function, plant_over_http
from tests.service.fake_upstream import run_upstream
from tests.service.running import make_settings, run_service


def main(
    images: Annotated[int, typer.Option(help="Mutated images for the decode process.")] = 20_000,
    requests: Annotated[int, typer.Option(help="Mutated images over HTTP.")] = 1_000,
    examples: Annotated[int, typer.Option(help="Requests per endpoint, from OpenAPI.")] = 50,
    bodies: Annotated[int, typer.Option(help="Planted requests of each protocol.")] = 20_000,
    http_bodies: Annotated[int, typer.Option(help="The same over HTTP.")] = 3_000,
    processes: Annotated[int, typer.Option(help="Decode processes side by side.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed makes the same inputs.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("runs/fuzz"),
) -> None:
    """Fuzzes, prints counts, and writes report.json."""
    report = {"seed": seed}
    with tqdm(total=images, unit="image", desc="decode process") as progress:
        report["decode"] = fuzz_decoding(seed, range(images), processes, progress.update).report()
    with run_upstream() as upstream, run_service(make_settings(upstream.url)) as service:
        with tqdm(total=requests, unit="image", desc="HTTP") as progress:
            numbers = range(images, images + requests)
            report["http"] = fuzz_http(service, seed, numbers, progress.update).report()
        report["contract"] = fuzz_contract(service, seed, examples)
        for name, ground in GROUNDS.items():
            with tqdm(total=http_bodies, unit="body", desc=f"planted, {name}, HTTP") as progress:
                step = _step(progress)
                run = plant_over_http(service, upstream, http_bodies, seed, step, ground)
                report[f"planted_http_{name}"] = {"outcomes": run[0], "faults": run[1]}
    for name, ground in GROUNDS.items():
        with tqdm(total=bodies, unit="body", desc=f"planted, {name}") as progress:
            run = plant_in_function(bodies, seed, progress=_step(progress), ground=ground)
            report[f"planted_{name}"] = {"outcomes": run[0], "faults": run[1]}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    typer.echo(text)
    found = [
        fault for part in report.values() if isinstance(part, dict) for fault in part["faults"]
    ]
    raise typer.Exit(1 if found else 0)


def _step(progress):
    return lambda _: progress.update()


if __name__ == "__main__":
    typer.run(main)
