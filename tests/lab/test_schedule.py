"""Parts of a long job: planned, run, interrupted, skipped, resumed; a day with a GPU, tiny."""

import json
import runpy
import shlex
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.schedule import GPU_FILE, PartOutcome, RunParts, read_parts, run_parts

NOTE = "python -c \"import pathlib; p = pathlib.Path('$work/{0}'); p.write_text(str(p.exists()))\""


def schedule(folder, *parts):
    text = "".join(
        f"[[part]]\nname = {name!r}\nabout = 'x'\nminutes = {minutes}\n"
        f"command = {json.dumps(command)}\ntiny = {json.dumps(tiny)}\n"
        for name, minutes, command, tiny in parts
    )
    file = folder / "parts.toml"
    file.write_text(text)
    return file


def settings(folder, *parts, **changes):
    return RunParts(file=schedule(folder, *parts), work=folder / "work", **changes)


def state(folder):
    return json.loads((folder / "work" / "state.json").read_text())


def note(name):
    return (name, 1, NOTE.format(name), "python -c 1")


@pytest.mark.slow
def test_parts_run_in_order_and_once(tmp_path, capsys):
    run = settings(tmp_path, note("first"), note("second"))
    run_parts(run)
    assert [(tmp_path / "work" / name).read_text() for name in ("first", "second")] == ["False"] * 2
    run_parts(run)
    assert (tmp_path / "work" / "first").read_text() == "False"
    assert capsys.readouterr().out.count("done, skipped") == 2
    run_parts(run.replace(again=True))
    assert (tmp_path / "work" / "first").read_text() == "True"


def test_a_plan_runs_nothing(tmp_path, capsys):
    run_parts(settings(tmp_path, note("first"), plan=True))
    assert "1 min at most" in capsys.readouterr().out
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_parts_are_chosen_by_name(tmp_path):
    run = settings(tmp_path, note("a"), note("b"), note("c"))
    run_parts(run.replace(only=("b", "c"), skip=("c",)))
    assert list(state(tmp_path)) == ["b"]
    with pytest.raises(LabError, match="no part d"):
        run_parts(run.replace(only=("d",)))


@pytest.mark.slow
def test_a_part_whose_time_is_over_is_interrupted_and_goes_on_at_the_next_start(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, sys, time\nkept = pathlib.Path(sys.argv[1])\n"
        "if kept.exists():\n    raise SystemExit\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    kept.write_text('half')\n"
    )
    part = ("long", 0.1, f"python {program} $work/kept", "-")
    run = settings(tmp_path, part, note("next"))
    run_parts(run)
    assert {name: part["outcome"] for name, part in state(tmp_path).items()} == {
        "long": "interrupted",
        "next": "done",
    }
    run_parts(run)
    assert state(tmp_path)["long"]["outcome"] == "done"


@pytest.mark.slow
def test_a_part_that_fails_ends_none_of_the_others(tmp_path):
    run = settings(tmp_path, ("bad", 1, "python -c 'raise SystemExit(3)'", "-"), note("good"))
    with pytest.raises(LabError, match="failed: bad"):
        run_parts(run)
    assert state(tmp_path)["good"]["outcome"] == "done"


def test_a_part_whose_files_are_missing_is_not_run(tmp_path):
    run = settings(tmp_path, note("a"), world=tmp_path / "world.npz")
    run.file.write_text(run.file.read_text() + "needs = ['$world']\n")
    with pytest.raises(LabError, match="failed: a"):
        run_parts(run)
    assert not (tmp_path / "work" / "a").exists()


def test_no_part_begins_when_the_time_is_over(tmp_path, capsys):
    run_parts(settings(tmp_path, note("a"), minutes=0.001))
    assert "no time is left" in capsys.readouterr().out
    assert not (tmp_path / "work" / "a").exists()


@pytest.mark.parametrize(
    "text", ["", "[[part]]\nname = 'a'\n", "[[part]]\nname = 'a b'", "x = ", "part = 1"]
)
def test_what_is_no_schedule_is_refused(tmp_path, text):
    file = tmp_path / "parts.toml"
    file.write_text(text)
    with pytest.raises(LabError, match=r"parts\.toml"):
        read_parts(file)


def test_the_day_begins_with_tests_and_benchmarks():
    names = [part.name for part in read_parts(GPU_FILE)]
    assert names[:4] == ["tests", "bench-engine", "bench-service", "photographs"]


def test_every_part_of_the_day_with_a_gpu_takes_nine_minutes_at_most():
    assert max(part.minutes for part in read_parts(GPU_FILE)) <= 9


def run_here(command, *_):
    """What `python -m MODULE ...` does, without a new interpreter that imports everything anew."""
    program, option, module, *arguments = shlex.split(command)
    assert (program, option) == ("python", "-m")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # Another test may have imported it; what runs here is loaded anew, as `__main__`.
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        patch.setattr(sys, "argv", [module, *arguments])
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            return PartOutcome.FAILED if ended.code else PartOutcome.DONE
    return PartOutcome.DONE


@pytest.mark.slow
def test_the_day_with_a_gpu_runs_at_tiny_size(tmp_path, world_file, monkeypatch):
    """Every command of it, with the flags that it has there, on a CPU."""
    monkeypatch.setattr("codefend.lab.schedule._run_command", run_here)
    photos = tmp_path / "work" / "photos"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(14):
        coarse = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((800, 600), Image.Resampling.BICUBIC)
        picture.save(photos / f"photo{chr(97 + number)}.png")
    run = RunParts(work=tmp_path / "work", world=world_file, tiny=True)
    llava = ("llava", "llava-pairs", "llava-t2", "llava-train")
    order = (*llava, "evaluate", "bench-engine", "bench-service", "photographs")
    for name in order:
        run_parts(run.replace(only=(name,)))
    assert {part["outcome"] for part in state(tmp_path).values()} == {"done"}
