"""Runs the parts of a long job one after another: each in its own time, skippable, resumable.

A file lists the parts, `experiments/schedules/gpu.toml` those of a day with a GPU. What is done
stays done. A part whose time is over is interrupted, and goes on at the next start if its command
resumes. A part that fails ends none of the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import Any

from pydantic import Field, ValidationError

from codefend.lab.errors import LabError
from codefend.lab.experiments.settings import RunSettings

__all__ = ["Part", "PartState", "RunParts", "run_parts"]

GPU_FILE = Path("experiments/schedules/gpu.toml")
STATE_FILE = "state.json"
GRACE_S = 30.0
BETWEEN_LOOKS_S = 0.5
LEAST_MINUTES = 0.5


class Part(RunSettings):
    """One command of a schedule; `$work`, `$world` and `$device` in it are filled in."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    """Of its log and of its state."""
    about: str
    """What it does, in a line."""
    minutes: float = Field(gt=0)
    """How long it may take before it is interrupted."""
    command: str
    """As a shell would split it; `python` is the interpreter that runs the schedule."""
    tiny: str
    """The same work at tiny size, on a CPU."""
    needs: tuple[str, ...] = ()
    """Files that have to be there."""
    makes: str = ""
    """A file that says it is done, whatever the exit code: of a report whose checks fail, too."""


class RunParts(RunSettings):
    """Run the parts of a schedule in order; print first what will run, go on where it stopped."""

    file: Path = GPU_FILE
    """The schedule: a TOML file of [[part]]."""
    work: Path = Path("work/gpu")
    """Folder of its logs, its state and whatever the parts make."""
    world: Path = Path("work/world.npz")
    """World file from `data build`."""
    device: str = "cuda:0"
    """Where the parts run."""
    only: tuple[str, ...] = ()
    """Names of the parts to run; all where none is named."""
    skip: tuple[str, ...] = ()
    """Names of parts to leave out."""
    minutes: float | None = Field(None, gt=0)
    """For all of them together."""
    tiny: bool = False
    """Run everything at tiny size, to see whether it would run."""
    plan: bool = False
    """Print what would run, and end."""
    again: bool = False
    """Run what is done already, too."""


class PartOutcome(StrEnum):
    """How a part's last run ended."""

    DONE = "done"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(slots=True)
class PartState:
    """What is known of a part.

    Attributes:
        command: What it ran; a changed one is not done.
        outcome: How the last run ended.
        seconds: Of all its runs.
        peak_gpu_mib: The most memory of the GPU that was seen in use; None where there is none.
    """

    command: str = ""
    outcome: str = ""
    seconds: float = 0.0
    peak_gpu_mib: int | None = None


@dataclass(slots=True)
class _Board:
    """The state of all parts, kept in a file."""

    file: Path
    parts: dict[str, PartState] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> _Board:
        try:
            kept = json.loads(file.read_text())
        except FileNotFoundError:
            return cls(file)
        except ValueError as error:
            raise LabError(f"{file} is damaged: remove it to begin anew") from error
        return cls(file, {name: PartState(**state) for name, state in kept.items()})

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps({n: asdict(s) for n, s in self.parts.items()}, indent=1) + "\n")
        fresh.replace(self.file)


def read_parts(file: Path) -> list[Part]:
    """The parts of a schedule, in order.

    Raises:
        LabError: The file cannot be read, names a part twice, or has a field that is unknown.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
        parts = [Part.model_validate(entry) for entry in document["part"]]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise LabError(f"{file} is no schedule: {error!r}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise LabError(f"{file}: {first['loc']}: {first['msg']}") from error
    if len({part.name for part in parts}) < len(parts):
        raise LabError(f"{file}: two parts have one name")
    return parts


def run_parts(settings: RunParts) -> None:
    """Prints the plan and runs what is not done.

    Raises:
        LabError: A part failed, or one that is named does not exist.
    """
    parts = _chosen(read_parts(settings.file), settings)
    board = _Board.read(settings.work / STATE_FILE)
    commands = {part.name: _command_of(part, settings) for part in parts}
    due = [part for part in parts if settings.again or not _is_done(board, part, commands)]
    _print_plan(parts, due, board)
    if settings.plan:
        return
    ends_s = None if settings.minutes is None else time.monotonic() + 60 * settings.minutes
    failed = []
    for part in due:
        left = part.minutes
        if ends_s is not None:
            left = min(left, (ends_s - time.monotonic()) / 60)
        if left < min(LEAST_MINUTES, part.minutes):
            _say(f"{part.name}: no time is left; the next start goes on here")
            break
        lacking = _lacking(part, settings)
        if lacking:
            _say(f"{part.name}: not run: {', '.join(lacking)} is missing")
            failed.append(part.name)
            continue
        makes = Path(_filler(settings)(part.makes)) if part.makes else None
        outcome = _run_part(part, commands[part.name], left, board, makes)
        failed += [part.name] if outcome is PartOutcome.FAILED else []
    if failed:
        raise LabError(f"failed: {', '.join(failed)}; see {settings.work}")


def _chosen(parts: list[Part], settings: RunParts) -> list[Part]:
    names = {part.name for part in parts}
    unknown = {*settings.only, *settings.skip} - names
    if unknown:
        raise LabError(f"there is no part {', '.join(sorted(unknown))}; there are {sorted(names)}")
    wanted = settings.only or names
    return [part for part in parts if part.name in wanted and part.name not in settings.skip]


def _filler(settings: RunParts) -> Any:
    values = {
        "work": str(settings.work),
        "world": str(settings.world),
        "device": "cpu" if settings.tiny else settings.device,
    }
    return lambda text: Template(text).substitute(values)


def _lacking(part: Part, settings: RunParts) -> list[str]:
    """Files that are not there; at tiny size those that do not depend on the run are not needed."""
    needs = [need for need in part.needs if "$" in need or not settings.tiny]
    return [need for need in map(_filler(settings), needs) if not Path(need).exists()]


def _command_of(part: Part, settings: RunParts) -> str:
    return str(_filler(settings)(part.tiny if settings.tiny else part.command))


def _is_done(board: _Board, part: Part, commands: dict[str, str]) -> bool:
    state = board.parts.get(part.name, PartState())
    return state.outcome == PartOutcome.DONE and state.command == commands[part.name]


def _print_plan(parts: list[Part], due: list[Part], board: _Board) -> None:
    for part in parts:
        state = board.parts.get(part.name, PartState())
        what = f"{part.minutes:g} min at most" if part in due else "done, skipped"
        before = f" ({state.outcome} after {state.seconds:.0f} s)" if state.outcome else ""
        _say(f"{part.name:>12}  {what}{before}: {part.about}")
    _say(f"{'together':>12}  {sum(part.minutes for part in due):g} min at most")


def _run_part(
    part: Part, command: str, minutes: float, board: _Board, makes: Path | None
) -> PartOutcome:
    state = board.parts.setdefault(part.name, PartState())
    if state.command != command:
        state.seconds, state.peak_gpu_mib = 0.0, None
    state.command = command
    log = board.file.parent / f"{part.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    _say(f"{part.name}: begins, {minutes:.1f} min at most; {log}")
    started_s = time.monotonic()
    outcome = PartOutcome.INTERRUPTED
    try:
        with log.open("ab") as output:
            outcome = _run_command(command, minutes * 60, output, state)
        if outcome is PartOutcome.FAILED and makes is not None and makes.exists():
            outcome = PartOutcome.DONE
    finally:
        # Ctrl-C, too, leaves a state from which the next start goes on.
        state.outcome = outcome.value
        state.seconds += time.monotonic() - started_s
        board.write()
    memory = "" if state.peak_gpu_mib is None else f", {state.peak_gpu_mib} MiB of the GPU"
    _say(f"{part.name}: {outcome.value} after {state.seconds:.0f} s{memory}")
    for line in log.read_text(errors="replace").splitlines()[-3:]:
        _say(f"    {line[:200]}")
    return outcome


def _run_command(command: str, limit_s: float, output: Any, state: PartState) -> PartOutcome:
    words = shlex.split(command)
    if words[0] == "python":
        words[0] = sys.executable
    # A group of its own: whatever it started ends with it, and a terminal's Ctrl-C comes from here.
    running = subprocess.Popen(  # noqa: S603 - a file of this tree says what runs
        words,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_take_interrupts,  # noqa: PLW1509 - nothing here has threads
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    ends_s = time.monotonic() + limit_s
    try:
        for used in _gpu_memory_mib():
            if used is not None:
                state.peak_gpu_mib = max(used, state.peak_gpu_mib or 0)
            if running.poll() is not None:
                return PartOutcome.FAILED if running.returncode else PartOutcome.DONE
            if time.monotonic() >= ends_s:
                return PartOutcome.INTERRUPTED
            time.sleep(BETWEEN_LOOKS_S)
    finally:
        _end(running)
    raise AssertionError  # memory is looked at for ever


def _take_interrupts() -> None:
    """What was started in the background ignores interrupts, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(running: subprocess.Popen[bytes]) -> None:
    """Interrupts it, as Ctrl-C would, so that it can keep what it has; kills what goes on."""
    with contextlib.suppress(ProcessLookupError):
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(GRACE_S)
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def _gpu_memory_mib() -> Iterator[int | None]:
    """What of the first GPU's memory is in use, whenever asked; None where there is no GPU."""
    program = shutil.which("nvidia-smi")
    query = [program or "", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    while True:
        if program is None:
            yield None
            continue
        said = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603
        yield int(said.stdout) if said.stdout.strip().isdecimal() else None


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
