"""Settings of a run: a preset, then a TOML file, then flags, each over the one before.

A model of nested sections says all at once: fields, types, defaults, help (the docstring under a
field), flags (`--section.field`) and the keys of a TOML file. No value means "somebody else's
default": what a run will use is what the resolved settings say, and reports state them.
"""

from __future__ import annotations

import tomllib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import typer
from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from codefend.lab.errors import LabError

__all__ = ["Experiment", "RunSettings", "add_command", "add_experiments", "read_settings"]

EXPERIMENT_KEY = "experiment"
"""Of a TOML file: which experiment it is for."""


class RunSettings(BaseModel):
    """A group of settings, or all of a run; frozen, and strict about names.

    Attributes:
        presets: by the value of one field, settings that hold where nothing else is said.
        preset_field: which field.
        shortcuts: further names of nested fields as flags: `{"oblivious.steps": "steps"}`; several
            fields may share one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    preset_field: ClassVar[str] = "preset"
    shortcuts: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, given: Any) -> Any:
        if not cls.presets or not isinstance(given, Mapping):
            return given
        name = given.get(cls.preset_field, cls.model_fields[cls.preset_field].default)
        return _merged(cls.presets.get(name, {}), given)  # an unknown name fails as a field does

    def replace(self, **changes: Any) -> Self:
        """The same but for some fields, checked like any other settings."""
        return type(self).model_validate({**dict(self), **changes})


class Experiment(RunSettings):
    """One run with a report; see the package's docstring for how to add an experiment.

    Attributes:
        name: of its command, and in TOML files.
        has_own_command: whether a command of another name runs it, so that none of this is added.
    """

    name: ClassVar[str]
    has_own_command: ClassVar[bool] = False

    out: Path
    """Folder of the report; an interrupted run resumes from it."""

    @abstractmethod
    def run(self) -> None:
        """Makes whatever the folder lacks, and writes the report."""


SettingsT = TypeVar("SettingsT", bound=RunSettings)


def read_settings(
    model: type[SettingsT],
    arguments: Sequence[str],
    *,
    given: Mapping[str, Any] | None = None,
    command: str = "",
    program: str = "codefend-lab",
) -> SettingsT:
    """Settings from flags, over what a file says, over the model's preset and defaults.

    Args:
        model: what is read; `--help` among the arguments prints its fields and ends the program.
        arguments: of the command line: `--section.field value`, or a shortcut; lists as `4,8`,
            mappings as `t1=64,t2=32`, switches as `--field` and `--no-field`.
        given: of a TOML file.
        command: shown in help and errors.
        program: whose command it is.

    Raises:
        LabError: an unknown or missing field, or a value that it does not take.
    """
    fields_of: dict[str, list[str]] = {}
    for field, flag in model.shortcuts.items():
        fields_of.setdefault(flag, []).append(field.replace("_", "-"))
    own = {fields[0]: flag for flag, fields in fields_of.items() if len(fields) == 1}
    try:
        flags = CliSettingsSource[Any](
            _with_flags(model),
            cli_prog_name=f"{program} {command}".strip(),
            cli_parse_args=list(_spelt_out(arguments, fields_of)),
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_shortcuts=own,
            cli_hide_none_type=True,
            cli_avoid_json=True,
            cli_use_class_docs_for_groups=True,
            cli_exit_on_error=False,
        )()
        return model.model_validate(_merged(given or {}, flags))
    except SettingsError as error:
        raise LabError(f"{command}: {error}") from error
    except ValidationError as error:
        raise LabError("; ".join(_complaints(error))) from error


def _spelt_out(arguments: Sequence[str], fields_of: Mapping[str, list[str]]) -> Iterator[str]:
    """Arguments in which a flag that several fields share is given once for each of them."""
    words = iter(arguments)
    for word in words:
        flag, mark, value = word.removeprefix("--").partition("=")
        fields = fields_of.get(flag, ()) if word.startswith("--") else ()
        if len(fields) < 2:
            yield word
            continue
        value = value if mark else next(words, "")
        yield from (f"--{field}={value}" for field in fields)


def _with_flags(model: type[RunSettings]) -> Any:
    """The model as pydantic-settings' sources take it."""
    bases: Any = (BaseSettings, model)
    return create_model(model.__name__, __base__=bases, __doc__=model.__doc__)


def add_command(
    app: typer.Typer, name: str, model: type[SettingsT], run: Callable[[SettingsT], None]
) -> None:
    """Adds a command that takes one settings model: its fields are the command's flags."""

    @app.command(
        name,
        help=model.__doc__,
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],  # the model's own help says more
        },
    )
    def command(context: typer.Context) -> None:
        run(read_settings(model, context.args, command=context.command_path.partition(" ")[2]))


def add_experiments(app: typer.Typer, experiments: Iterable[type[Experiment]]) -> None:
    """Adds a command for each experiment, and `run` for any of them from a TOML file."""
    known = {experiment.name: experiment for experiment in experiments}
    for name, experiment in known.items():
        if not experiment.has_own_command:
            add_command(app, name, experiment, lambda settings: settings.run())

    @app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def run(context: typer.Context, file: Path) -> None:
        """Run the experiment of a TOML file; flags are those of its own command."""
        given = _read_toml(file)
        name = given.pop(EXPERIMENT_KEY, None)
        if name not in known:
            names = ", ".join(known)
            raise LabError(f'{file}: {EXPERIMENT_KEY} = "NAME" must be there, one of {names}')
        try:
            settings = read_settings(known[name], context.args, given=given, command=name)
        except LabError as error:
            raise LabError(f"{file}: {error}") from error
        settings.run()


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"{file} cannot be read: {error}") from error


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` where it says something, else `under`; sections are merged field by field."""
    both = {**under, **over}
    for name in under.keys() & over.keys():
        if isinstance(under[name], Mapping) and isinstance(over[name], Mapping):
            both[name] = _merged(under[name], over[name])
    return both


def _complaints(error: ValidationError) -> Iterable[str]:
    for fault in error.errors():
        names = [part for part in fault["loc"] if isinstance(part, str)]
        flag = ".".join(names).replace("_", "-")
        got = "" if fault["type"] == "missing" or not flag else f"; got {fault['input']!r}"
        message = f"--{flag}: " * bool(flag) + fault["msg"].removeprefix("Value error, ")
        if fault["type"] in {"literal_error", "enum"}:
            message = f"--{flag} takes names from {fault['ctx']['expected']}"
        yield message + got
