"""Settings of a run: preset, file and flags, each over the one before."""

from pathlib import Path
from typing import ClassVar, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from codefend.lab.errors import LabError
from codefend.lab.experiments.settings import (
    Experiment,
    RunSettings,
    add_experiments,
    read_settings,
)


class Search(RunSettings):
    """How it is searched."""

    steps: int = Field(100, ge=1)
    """Gradient steps."""
    radii: tuple[int, ...] = (4, 8)
    """In levels of 255."""
    scenes: dict[str, int] = Field({"t1": 64, "t2": 32})
    """By tier."""


class Tried(Experiment):
    """Try something."""

    name = "tried"
    shortcuts: ClassVar = {"search.steps": "steps"}
    presets: ClassVar = {"small": {"search": {"steps": 5, "scenes": {"t1": 8, "t2": 4}}}}

    preset: Literal["small", "full"] = "full"
    """How much is run."""
    search: Search = Search()
    is_loud: bool = False
    """Whether it says more."""

    def run(self):
        typer.echo(self.model_dump_json())


def read(*arguments, **given):
    return read_settings(Tried, ["--out", "x", *arguments], given=given, command="tried")


def test_flags_go_over_the_file_and_the_file_over_the_preset():
    assert read().search == Search()
    assert read("--preset", "small").search.steps == 5
    of_file = {"preset": "small", "search": {"steps": 7, "scenes": {"t1": 9}}}
    assert read(**of_file).search == Search(steps=7, scenes={"t1": 9, "t2": 4})
    flags = ("--search.scenes", "t2=1", "--steps", "3", "--search.radii", "16,32")
    assert read(*flags, **of_file).search == Search(
        steps=3, radii=(16, 32), scenes={"t1": 9, "t2": 1}
    )
    assert read("--is-loud").is_loud
    assert not read("--no-is-loud", is_loud=True).is_loud


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--search.steps", "0"], "--search.steps: Input should be greater than or equal to 1"),
        (["--steps", "many"], "--search.steps"),
        (["--preset", "huge"], "--preset"),
        (["--stps", "3"], "--stps"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(arguments, said):
    with pytest.raises(LabError, match=r"^[^\n]*$") as caught:
        read(*arguments)
    assert said in str(caught.value)


def test_unknown_keys_of_a_file_are_named():
    with pytest.raises(LabError, match=r"--search\.stps"):
        read(search={"stps": 3})


def test_settings_are_replaced_with_their_checks():
    assert Search().replace(steps=3).steps == 3
    with pytest.raises(ValueError, match="greater"):
        Search().replace(steps=0)


@pytest.fixture
def app():
    app = typer.Typer()
    add_experiments(app, [Tried])
    return app


def test_an_experiment_runs_by_name_and_from_a_file(app, tmp_path: Path):
    file = tmp_path / "small.toml"
    file.write_text('experiment = "tried"\nout = "y"\npreset = "small"\n[search]\nradii = [2]\n')
    by_name = CliRunner().invoke(app, ["tried", "--out", "y", "--preset=small", "--search.radii=2"])
    from_file = CliRunner().invoke(app, ["run", str(file)])
    assert by_name.exit_code == from_file.exit_code == 0
    assert Tried.model_validate_json(by_name.stdout) == Tried.model_validate_json(from_file.stdout)
    changed = CliRunner().invoke(app, ["run", str(file), "--steps", "2"])
    assert Tried.model_validate_json(changed.stdout).search.steps == 2


@pytest.mark.parametrize("text", ["steps = 3", 'experiment = "other"', "= 3"])
def test_a_file_of_no_experiment_is_refused(app, tmp_path: Path, text):
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["run", str(file)])
    assert isinstance(result.exception, LabError)
    assert "wrong.toml" in str(result.exception)


def test_help_names_every_field_and_says_what_it_is(app):
    result = CliRunner().invoke(app, ["tried", "--help"])
    assert result.exit_code == 0
    for said in ("--search.steps", "--steps", "Gradient steps.", "--out", "Whether it says more."):
        assert said in result.stdout
