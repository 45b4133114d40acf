"""A real reader reads print, is led to read something else, and what is counted is exact."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from codefend.lab.attacks.gradient import PGD
from codefend.lab.baselines.compression import jpeg
from codefend.lab.baselines.defence import NO_DEFENCE, defend
from codefend.lab.baselines.filters import bilateral
from codefend.lab.cli import app
from codefend.lab.documents.document import Fonts
from codefend.lab.encoders.releases import ENCODERS_FOLDER, READER, fetch_release
from codefend.lab.errors import LabError
from codefend.lab.recognition.lines import WISHES, LineReader, attacked_lines, towards_text
from codefend.lab.recognition.read import Read, ReaderRun, ReadWhiteBox
from codefend.models.quantise import dequantise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def reader():
    fetch_release(READER)
    return LineReader.load(ENCODERS_FOLDER)


@pytest.fixture(scope="session")
def lines():
    return attacked_lines(Fonts.built_in(), num=4)


def tensor_of(line):
    return torch.from_numpy(line.image).permute(2, 0, 1)[None].float() / 255


def test_print_is_read_as_it_stands_there(reader, lines):
    read_right = [reader.read(tensor_of(line)) == [line.truth] for line in lines]
    assert sum(read_right) >= len(lines) - 1


def test_every_wish_is_another_text(reader, lines):
    assert [line.wish for line in lines[:3]] == list(WISHES)
    for line in lines:
        assert line.target != line.truth
        if line.wish == "amount":
            differing = [a != b for a, b in zip(line.target, line.truth, strict=True)]
            assert sum(differing) == 1
            float(line.target)
        if line.wish == "nothing":
            assert line.target == ""
        reader.classes_of(line.target)
    again = attacked_lines(Fonts.built_in(), num=4)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(lines, again, strict=True))


@pytest.mark.slow
def test_lines_are_the_same_in_every_process(lines):
    command = (
        "from codefend.lab.documents.document import Fonts; "
        "from codefend.lab.recognition.lines import attacked_lines; "
        "print([line.target for line in attacked_lines(Fonts.built_in(), num=4)])"
    )
    for hash_seed in ("1", "2", "3"):
        told = subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == str([line.target for line in lines])


def test_the_loss_of_a_text_is_least_for_the_line_that_says_it(reader, lines):
    images = tensor_of(lines[0])
    texts = [lines[0].truth, lines[0].target, "something else"]
    losses = [float(towards_text(reader, [text])(images)) for text in texts]
    assert losses[0] > max(losses[1:])
    assert losses[0] == pytest.approx(0, abs=0.2)


def test_an_attack_makes_a_line_say_nothing_and_random_noise_does_not(reader, lines):
    images = tensor_of(lines[0])
    noise = 24 / 255 * (2 * torch.rand(images.shape, generator=torch.Generator()) - 1)
    assert reader.read((images + noise).clamp(0, 1)) == [lines[0].truth]
    attack = PGD(epsilon=24 / 255, steps=25)
    generator = torch.Generator().manual_seed(0)
    attacked = attack(images, towards_text(reader, [""]), generator=generator)
    assert reader.read(attacked) == [""]


def test_a_character_that_it_does_not_know_is_named(reader):
    with pytest.raises(LabError, match="cannot read ☃"):
        towards_text(reader, ["snow☃"])


def test_rows_count_exact_texts_and_wrong_characters(reader, lines, tmp_path):
    run = ReaderRun(reader, lines[:3], Read(out=tmp_path, levels=(16,), steps=2, seeds=1))
    rows = run.unaware_rows([NO_DEFENCE, jpeg(90)])
    clean = {(r.defence, r.metric): r.value for r in rows if r.tier == "clean"}
    assert clean["none", "accuracy"] == 1.0
    assert clean["none", "character_error"] == 0.0
    attacked = [r for r in rows if r.tier == "t0"]
    assert {r.attack for r in attacked} == {"pgd-all", "pgd-amount", "pgd-name", "pgd-nothing"}
    assert all(r.targeted and r.task == "reading" for r in attacked)
    assert {r.n for r in attacked if r.attack == "pgd-all"} == {3}
    assert run.unaware_rows([NO_DEFENCE, jpeg(90)]) == rows


def test_an_attack_through_a_filter_comes_nearer_to_its_target(reader, lines, tmp_path):
    white_box = ReadWhiteBox(lines=2)
    plan = Read(out=tmp_path, levels=(24,), steps=25, seeds=1, white_box=white_box)
    run, filtering = ReaderRun(reader, lines, plan), bilateral(0.3)
    (row, *_) = run.white_box_rows([filtering])
    assert (row.tier, row.n, row.eot) == ("t2", 2, 1)
    assert row.gradient in {"exact", "oblivious"}
    chosen = [line for line in lines if line.wish == "amount"][:2]
    reached = []
    for through in (None, (filtering, "exact")):
        images = run.attacked(chosen, 24, through)
        seen = [dequantise(torch.from_numpy(i[None])) for i in defend(filtering, images, seed=0)]
        losses = [
            towards_text(reader, [line.target])(image)
            for line, image in zip(chosen, seen, strict=True)
        ]
        reached.append(float(torch.stack(losses).mean()))
    assert reached[1] > reached[0] + 0.05


@pytest.mark.slow
def test_the_command_writes_a_report(tmp_path):
    fetch_release(READER)
    told = CliRunner().invoke(
        app,
        f"read --out {tmp_path} --num 2 --steps 1 --seeds 1 --defences none,purifier+jpeg:40 "
        "--through jpeg:30,purifier".split(),
    )
    assert told.exit_code == 0, told.output
    report = (tmp_path / "report.md").read_text()
    assert "| read as the attacker wants | 4/255, amount |" in report
    assert "| T2, read as the attacker wants | 16/255, amount |" in report
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert {row["defence"] for row in rows if row["tier"] == "t0"} == {
        "none",
        "purifier+jpeg noise_level=0.08 num_steps=1 quality=40",
    }
