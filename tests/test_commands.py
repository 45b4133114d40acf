"""Every command of the documentation is one that exists, with options and settings that hold."""

import subprocess
from importlib.util import find_spec

import pytest
import typer

from codefend.lab.cli import app as laboratory
from codefend.lab.experiments import settings as experiments
from codefend.service.cli import app as service
from codefend.service.settings import load_settings
from tests.documented import NOT_RUN, ROOT, calls_of, shell_blocks

BLOCKS = shell_blocks()
SERVES = {"serve", "mllm", "purify", "config", "prepare"}


class Read(Exception):
    """The command line was understood; nothing is to follow."""


def understand(app, arguments, monkeypatch):
    """Has a command line read by what it is for, up to where it would begin its work."""
    command = typer.main.get_command(app)
    context = command.make_context("it", list(arguments))
    while hasattr(command, "commands"):
        name, command, arguments = command.resolve_command(context, list(arguments))
        try:
            context = command.make_context(name, arguments, parent=context)
        except typer.BadParameter as error:
            if "does not exist" in str(error):  # a file that an earlier command would make
                return
            raise
    if not context.ignore_unknown_options:
        return  # its options were read already
    read = experiments.read_settings

    def read_and_end(*given, **options):
        read(*given, **options)
        raise Read

    with monkeypatch.context() as patch:
        patch.setattr(experiments, "read_settings", read_and_end)
        patch.chdir(ROOT)
        with pytest.raises(Read), context:
            command.invoke(context)


def check(call, monkeypatch):
    """Holds one call to what would take it."""
    if call.program == "codefend-lab":
        understand(laboratory, call.arguments, monkeypatch)
    elif call.program == "codefend":
        understand(service, call.arguments, monkeypatch)
        if call.arguments[0] in SERVES:
            with monkeypatch.context() as patch:
                for name, value in call.environment.items():
                    if name.startswith("CODEFEND_"):
                        patch.setenv(name, value)
                load_settings()
    elif call.program == "make":
        command = ["make", "--dry-run", *call.arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif call.program == "python":
        assert call.arguments[0] == "-m"
        module = call.arguments[1]
        assert module.startswith("sglang.") or find_spec(module), module
    else:
        assert call.program in NOT_RUN


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.asks], ids=str)
def test_a_block_runs_and_calls_what_there_is(block, tmp_path, monkeypatch):
    calls = calls_of(block, tmp_path)
    lines = [line for line in block.code.splitlines() if not line.startswith(("export ", "#"))]
    assert calls or not lines, "nothing was called"
    for call in calls:
        check(call, monkeypatch)


def test_there_is_a_reason_for_nothing_that_is_not_there():
    text = "\n".join(block.code for block in BLOCKS)
    assert [name for name in NOT_RUN if name not in text] == []


@pytest.mark.parametrize("arguments", [["evaluate", "--nowhere", "1"], ["data", "nowhere"]])
def test_a_command_that_is_none_would_be_found(arguments, monkeypatch):
    with pytest.raises(Exception, match="nowhere"):
        understand(laboratory, arguments, monkeypatch)
