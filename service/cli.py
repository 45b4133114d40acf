"""The `codefend` command: serve, mllm, purify, prepare, verify, report, quarantine, config.

Spawned processes import this module again: whatever is heavy is imported where it is used.
"""

import contextlib
import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from codefend.service.settings import Settings

__all__ = ["main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="""Examples:

$ codefend serve

$ CODEFEND_UPSTREAM_URL=http://127.0.0.1:8001/v1 CODEFEND_MODE=shadow codefend serve

$ codefend purify photos/ purified/

$ codefend config""",
)

quarantine_app = typer.Typer(no_args_is_help=True, help="Images that look attacked, sealed.")
app.add_typer(quarantine_app, name="quarantine")

BAD_SETTINGS_EXIT_CODE = 2

logger = logging.getLogger(__name__)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from codefend.service.startup import installed_version

        typer.echo(f"codefend {installed_version()}")
        raise typer.Exit


@app.callback()
def codefend(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Purifies adversarial images in front of a multimodal language model.

    Every setting is an environment variable; `codefend config` lists them with what they do.
    """


@app.command(
    epilog="""Examples:

$ codefend serve

$ CODEFEND_PORT=8080 codefend serve

$ CODEFEND_API_KEYS=my-key CODEFEND_HOST=0.0.0.0 codefend serve

$ CODEFEND_UPSTREAM_URL=http://127.0.0.1:11434/v1 CODEFEND_UPSTREAM_MODEL=llava codefend serve"""
)
def serve() -> None:
    """Serve the HTTP API before the embedded model, or before yours (CODEFEND_UPSTREAM_URL)."""
    settings = _settings()
    from codefend.service.logs import configure_logs
    from codefend.service.server import serve as serve_forever
    from codefend.service.startup import describe_first_steps, why_not_bound

    configure_logs(settings.log_level)
    _warn_of_unknown_variables()
    _check_torch(settings)
    _check_weights(settings)
    if (problem := why_not_bound(settings)) is not None:
        typer.echo(f"codefend: {problem}", err=True)
        raise typer.Exit(BAD_SETTINGS_EXIT_CODE)
    if not sys.stdout.isatty():  # a program reads the log; it says when the service is ready, too
        serve_forever(settings)
        return
    typer.echo("CoDefend loads its models: up to a minute the first time, then seconds.")
    serve_forever(settings, lambda seconds: typer.echo(describe_first_steps(settings, seconds)))


@app.command(
    epilog="""Example:

$ codefend mllm --port 8001"""
)
def mllm(
    model: Annotated[str | None, typer.Option(help="Directory or hub id.")] = None,
    socket: Annotated[Path | None, typer.Option(help="Unix socket to listen on.")] = None,
    port: Annotated[int, typer.Option(help="Loopback port, without a socket.")] = 8001,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; none: all cores.")] = None,
    until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Serve the embedded model alone, as an OpenAI-style API."""
    settings = _settings()
    from codefend.service.logs import configure_logs
    from codefend.service.processes.child import bound_spinning

    bound_spinning()  # before torch is loaded
    from codefend.service.mllm.app import create_mllm_app, serve_app
    from codefend.service.mllm.generation import load_generator

    configure_logs(settings.log_level)
    generator = load_generator(model or settings.mllm, num_threads=threads)
    generator.warm_up()
    serve_app(
        create_mllm_app(generator),
        str(socket) if socket else None,
        port,
        until_stdin_closes=until_stdin_closes,
    )


@app.command(
    epilog="""Examples:

$ codefend purify photo.jpg purified.png

$ CODEFEND_PURIFIER=work/own/weights/purifier codefend purify photos/ purified/"""
)
def purify(
    source: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    target: Annotated[Path, typer.Argument(help="Where the result goes.")],
    overwrite: Annotated[bool, typer.Option(help="Purify again what is done.")] = False,
) -> None:
    """Purify an image or a folder; started again after an interruption, it goes on."""
    settings = _settings()
    from codefend.service.offline import ImagePurifier, purify_files

    try:
        purifier = ImagePurifier.of(settings, settings.devices[0])
        failures = purify_files(source, target, purifier, settings, overwrite=overwrite)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from error
    except KeyboardInterrupt:
        typer.echo("Interrupted; the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    for failure in failures:
        typer.echo(failure, err=True)
    raise typer.Exit(1 if failures else 0)


@app.command()
def prepare() -> None:
    """Load the purifier once, so that what a first start converts lies ready for all others."""
    settings = _settings()
    from codefend.service.devices import CpuDtype
    from codefend.service.purify.engine import EngineOptions, find_engine_loader

    load = find_engine_loader(settings.engine)
    for device in settings.devices:
        options = EngineOptions.of(settings, device)
        facts = load(options).facts
        how = f" ({facts.backend})" if facts.backend else ""
        typer.echo(f"{facts.name} {facts.version} is ready on {facts.device}{how}")
        if facts.backend == "openvino" and options.cpu_dtype is CpuDtype.AUTO:
            # Where it is served may be another processor than where it is prepared.
            for dtype in (CpuDtype.FLOAT32, CpuDtype.INT8):
                with contextlib.suppress(ValueError):  # no ranges were measured
                    load(replace(options, cpu_dtype=dtype))


@app.command()
def verify() -> None:
    """Check the shipped weights against their manifest."""
    from codefend.models import manifest

    num_problems = 0
    for entry in manifest.read_manifest():
        is_here = (manifest.WEIGHTS_DIRECTORY / entry.path).exists()
        if entry.name in manifest.LABORATORY_WEIGHTS and not is_here:
            typer.echo(f"{entry.name}: not installed; the laboratory's, a checkout has it")
            continue
        problems = list(manifest.verify_weights(entry))
        num_problems += len(problems)
        typer.echo(f"{entry.name}: {'; '.join(problems) or 'ok'}")
    raise typer.Exit(1 if num_problems else 0)


@quarantine_app.command("keygen")
def quarantine_keygen(
    private_key: Annotated[Path, typer.Argument(help="New file for the private key.")],
) -> None:
    """Make a pair of keys: the private one goes to a file, the public one is printed.

    Keep the private key away from the service, which never needs it.
    """
    from codefend.service.sealing import make_key

    try:
        typer.echo(f"CODEFEND_QUARANTINE_KEY={make_key(private_key)}")
    except FileExistsError as error:
        msg = f"{private_key} exists, and what it opens would be lost; name another file"
        raise typer.BadParameter(msg) from error


@quarantine_app.command("open")
def quarantine_open(
    private_key: Annotated[Path, typer.Argument(help="The private key's file.", exists=True)],
    directory: Annotated[Path, typer.Argument(help="Sealed images.", exists=True)],
    target: Annotated[Path, typer.Argument(help="New folder for what they hold.")],
) -> None:
    """Open every sealed image in a directory: what was sent, what it became, and the audit."""
    from codefend.service.quarantine import SUFFIX
    from codefend.service.sealing import open_sealed

    num_failures = 0
    for file in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            found = open_sealed(file.read_bytes(), private_key)
        except ValueError as error:
            num_failures += 1
            typer.echo(f"{file.name}: {error}", err=True)
            continue
        (target / file.stem).mkdir(mode=0o700, parents=True)
        for name, content in found.items():
            (target / file.stem / Path(name).name).write_bytes(content)
        typer.echo(target / file.stem)
    raise typer.Exit(1 if num_failures else 0)


@app.command()
def report(
    logs: Annotated[list[Path], typer.Argument(help="Logs of the service.", exists=True)],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what a rollout in shadow mode has shown: flagged, changed, refused, cost, threshold."""
    from codefend.service.rollout import RolloutReport, read_events

    events = []
    for log in logs:
        with log.open(encoding="utf-8", errors="replace") as lines:
            events += read_events(lines)
    try:
        found = RolloutReport.of(events)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(found.to_json() if as_json else found.to_markdown())


@app.command()
def config() -> None:
    """Show the effective settings, secrets hidden, and what each one does."""
    settings = _settings()
    shown = json.loads(settings.model_dump_json())
    for name, value in shown.items():
        description = type(settings).model_fields[name].description
        typer.echo(f"CODEFEND_{name.upper()}={json.dumps(value)}  # {description}")
    for name, nearest in _unknown_variables().items():
        hint = f"; did you mean {nearest}?" if nearest else ""
        typer.echo(f"# {name} is no setting{hint}")
    for caller, policy in _policies_of_keys(settings).items():
        typer.echo(f"# key {caller}: {policy}")


def _policies_of_keys(settings: "Settings") -> dict[str, str]:
    """The effective policy of each caller that the file of keys names."""
    from codefend.service.credentials import read_keys

    keys = read_keys(settings.api_keys_file) if settings.api_keys_file else ()
    return {key.name: key.change.apply(settings.policy).describe() for key in keys}


def _unknown_variables() -> dict[str, str | None]:
    from codefend.service.startup import find_unknown_variables

    return find_unknown_variables(name for name, value in os.environ.items() if value)


def _warn_of_unknown_variables() -> None:
    for name, nearest in _unknown_variables().items():
        fields = {"variable": name, "nearest_setting": nearest}
        logger.warning("an environment variable is no setting", extra={"fields": fields})


def _check_torch(settings: "Settings") -> None:
    """Ends the command where torch is asked for and is not installed."""
    from codefend.service.devices import has_torch
    from codefend.service.startup import find_uses_of_torch

    uses = [] if has_torch() else find_uses_of_torch(settings)
    for use in uses:
        message = (
            f"{use} needs torch, which is not installed here: leave it out, or use the image "
            "codefend:cpu (pip install torch)"
        )
        typer.echo(f"codefend: {message}", err=True)
    if uses:
        raise typer.Exit(BAD_SETTINGS_EXIT_CODE)


def _check_weights(settings: "Settings") -> None:
    """Ends the command where prompts or weights are not what their manifest says."""
    from codefend.service.policy import Mode
    from codefend.service.purify.model_version import (
        UnfitModelVersion,
        check_directories,
        check_weights,
        load_model_version,
    )

    try:
        version = load_model_version(settings, 1)
        if settings.mode is not Mode.OFF:
            check_weights(version)
        if settings.upstream_url is None:
            check_directories(settings.mllm)
    except UnfitModelVersion as error:
        typer.echo(f"codefend: {error}", err=True)
        raise typer.Exit(BAD_SETTINGS_EXIT_CODE) from None


def _settings() -> "Settings":
    from pydantic import ValidationError

    from codefend.service.settings import load_settings

    try:
        return load_settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            place = "".join(f"CODEFEND_{part}: ".upper() for part in problem["loc"])
            typer.echo(f"{place}{problem['msg'].removeprefix('Value error, ')}", err=True)
        sys.exit(BAD_SETTINGS_EXIT_CODE)


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
