"""What stands beside every figure: the tree that it is of, and who else worked on the machine."""

import json
import subprocess

import pytest

import benchmarks.report
import codefend.lab.experiments.report
from benchmarks.__main__ import PARTS, Benchmark, main
from benchmarks.report import Circumstances, Figure, percentiles_ms, write_results
from codefend.lab.experiments.report import commit

QUIET = Circumstances("a" * 40, 0.1, 0.02, "2026-11-26T12:00:00+00:00")


def test_all_benchmarks_end_within_twenty_minutes():
    assert set(PARTS) == set(Benchmark)
    assert sum(part.seconds for part in PARTS.values()) <= 20 * 60


@pytest.mark.parametrize(
    ("commit", "busy", "said"),
    [
        ("a" * 40, 0.02, []),
        ("a" * 40 + "-dirty", 0.02, ["files differ"]),
        ("a" * 40, 1.4, ["1.4 processors busy"]),
    ],
)
def test_what_disturbed_a_figure_is_said(commit, busy, said, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.report, "RESULTS", tmp_path)
    seen = Circumstances(commit, 0.1, busy, QUIET.date)
    row = Figure("rows", {"baseline": "other"}, 3.0, "ms", baseline=2.0, **percentiles_ms([1, 2]))
    document = json.loads(write_results("x", [row], "cpu", seen, 12.3).read_text())
    assert len(document["meta"]["warnings"]) == len(said)
    assert all(a in b for a, b in zip(said, document["meta"]["warnings"], strict=True))
    assert document["meta"]["load"] == 0.1
    assert document["rows"][0]["ratio"] == 1.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "is_dirty"), [("code.py", True), ("benchmarks/results/x.json", False)]
)
def test_a_tree_with_changed_code_is_marked(path, is_dirty, tmp_path, monkeypatch):
    """Results that the benchmark before has just written are no change of what is measured."""

    def git(*words):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    for name in ("code.py", "benchmarks/results/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(codefend.lab.experiments.report, "TREE", tmp_path)
    monkeypatch.setattr(benchmarks.report, "IDLE_S", 0.01)
    assert not Circumstances.look().commit.endswith("-dirty")
    (tmp_path / path).write_text("2")
    assert Circumstances.look().commit.endswith("-dirty") == is_dirty


@pytest.mark.slow
def test_a_copy_without_history_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(codefend.lab.experiments.report, "TREE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "unknown"
    monkeypatch.setenv("SOURCE_COMMIT", "a" * 40)
    assert commit() == "a" * 40


def test_strict_measures_nothing_where_something_disturbs(monkeypatch):
    monkeypatch.setattr(Circumstances, "look", lambda: Circumstances("a-dirty", 9.0, 1.0, ""))
    with pytest.raises(SystemExit, match="codec was not measured: files differ"):
        main(["codec", "--strict"])
