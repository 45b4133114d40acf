"""A classifier is attacked on windows that it is sure of; what comes back is counted by photo."""

import json
import lzma
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import codefend.lab.classification.attacked
from codefend.lab.baselines.compression import jpeg
from codefend.lab.baselines.defence import NO_DEFENCE, chained
from codefend.lab.baselines.filters import gaussian_noise
from codefend.lab.classification.attacked import ClassifierRun, ClassifyWhiteBox
from codefend.lab.classification.classify import Classify, best_at, draw_curves, tables_of
from codefend.lab.classification.windows import SIDE_PX, Windows, confident_windows
from codefend.lab.cli import app
from codefend.lab.errors import LabError
from codefend.lab.evaluate.command import CONTROL_NOISE
from codefend.lab.experiments.report import Row, Threat, write_report
from codefend.lab.fidelity.samples import Sample
from codefend.lab.victims.classifier import ClassifierVictim
from codefend.lab.victims.preprocess import Preprocess
from codefend.lab.victims.resizing import PixelScale, ResizeCrop
from codefend.models.detector.calibration import clean_quantiles
from codefend.models.detector.network import SuspicionDetector


class Brightness(torch.nn.Module):
    """Light or dark, by the mean level; as sure as it is far from the middle."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def forward(self, pixels):
        mean = (pixels.mean(dim=(1, 2, 3)) - 128) * self.weight
        nothing = torch.zeros_like(mean)
        return torch.stack([mean, -mean, nothing, nothing], dim=1)


@pytest.fixture
def classifier():
    scale = PixelScale(rescale_factor=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    preprocess = Preprocess(ResizeCrop(resample=3, crop=None, scale=scale))
    return ClassifierVictim("brightness", Brightness().eval(), preprocess, "0" * 64)


def photo(level, side=256):
    return Sample("photo", np.full((side, side, 3), level, np.uint8), str(level))


def test_only_windows_that_it_is_sure_of_are_asked_about(classifier):
    photos = [photo(128), photo(132), photo(120), photo(10, side=200)]
    windows = confident_windows(photos, classifier, per_photo=2, seed=0)
    assert windows.num_tried == 6  # the small photo is passed over
    assert windows.photos.tolist() == [1, 2, 1, 2]
    assert windows.labels.tolist() == [0, 1, 0, 1]
    assert windows.coverage == "4 of 6 windows; asked about 4, of 2 things or photos"
    assert all(image.shape == (SIDE_PX, SIDE_PX, 3) for image in windows.images)


def test_a_classifier_that_is_never_sure_is_said_to_be(classifier):
    with pytest.raises(LabError, match="sure of none"):
        confident_windows([photo(128)], classifier, per_photo=1, seed=0)


def test_windows_are_taken_of_every_thing_in_turn(classifier):
    views = [
        Sample("photo", photo(level).image, f"{name}--{view}.png")
        for name, level in (("owl", 150), ("fox", 100))
        for view in range(3)
    ]
    windows = confident_windows(views, classifier, per_photo=1, seed=0, most=4)
    assert windows.photos.tolist() == [0, 1, 0, 1]
    assert windows.labels.tolist() == [0, 1, 0, 1]
    assert windows.coverage == "6 of 6 windows; asked about 4, of 2 things or photos"


def test_a_threshold_on_single_chances_is_the_classifiers_own(classifier):
    strict = replace(classifier, chances=lambda logits: torch.full_like(logits, 0.29))
    with pytest.raises(LabError, match="sure of none"):
        confident_windows([photo(10)], strict, per_photo=1, seed=0)


def test_a_white_box_breaks_what_the_codec_alone_protects(classifier, tmp_path):
    images = [np.full((32, 32, 3), level, np.uint8) for level in (131, 250)]
    windows = Windows(images, torch.tensor([0, 0]), np.array([0, 1]), 2)
    how = ClassifyWhiteBox(windows=2, levels=(8,), steps=10, draws=2)
    plan = Classify(out=tmp_path, seeds=2)
    chain = chained([gaussian_noise(0.01), jpeg(90)])
    run = partial(ClassifierRun(classifier, windows, plan, how).white_box_rows, [jpeg(90), chain])
    rows = run()
    assert [row.value for row in rows] == [0.5, 0.5]
    assert {frozenset(row.gradient.split("+")) for row in rows} == {
        frozenset({"bpda", "surrogate"})
    }
    assert {(row.tier, row.eot, row.steps) for row in rows} == {("t2", 2, 10)}
    assert run() == rows


def windows_of(*levels):
    images = [np.full((32, 32, 3), level, np.uint8) for level in levels]
    num = len(images)
    return Windows(images, torch.zeros(num, dtype=torch.long), np.arange(num), num)


def test_outcomes_are_kept(classifier, tmp_path, monkeypatch):
    windows, plan = windows_of(131, 100), Classify(out=tmp_path, seeds=1, levels=())
    (once,) = ClassifierRun(classifier, windows, plan).unaware_rows([jpeg(90)])
    assert once.value == 0.5
    monkeypatch.setattr(ClassifierVictim, "predict", None)
    assert ClassifierRun(classifier, windows, plan).unaware_rows([jpeg(90)]) == [once]


def test_a_chain_shares_what_its_first_part_made(classifier, tmp_path):
    plan = Classify(out=tmp_path, seeds=2, levels=())
    run, noise = ClassifierRun(classifier, windows_of(131, 100), plan), gaussian_noise(0.05)
    run.unaware_rows([noise, chained([noise, jpeg(30)]), chained([noise, jpeg(60)])])
    assert len(run.responder.shared) == 2


def test_gains_are_counted_window_by_window(classifier, tmp_path):
    strong, weak = jpeg(90), NO_DEFENCE
    windows = windows_of(131, 200, 100)
    plan = Classify(out=tmp_path, levels=(8,), steps=3, seeds=1)
    rows = ClassifierRun(classifier, windows, plan).unaware_rows([weak, strong], weak)
    gains = [row for row in rows if row.metric == "gain"]
    assert [(row.tier, row.attack, row.defence) for row in gains] == [
        ("clean", "none", "jpeg quality=90"),
        ("t0", "worst-of-all", "jpeg quality=90"),
    ]
    shares = [row for row in rows if row.metric != "gain" and row.attack == "worst-of-all"]
    assert gains[1].value == pytest.approx(shares[1].value - shares[0].value)
    assert (
        rows[:1] + rows[1:2]
        == ClassifierRun(classifier, windows, plan).unaware_rows([weak, strong])[:2]
    )
    heads = [table.heads[0] for table in tables_of(rows, ["brightness"])]
    assert heads[-1] == "brightness: gain, window by window"


def test_gains_are_over_one_of_the_defences(tmp_path):
    with pytest.raises(ValueError, match="must be one of the defences"):
        Classify(out=tmp_path, against="jpeg:31")
    assert Classify(out=tmp_path, against="jpeg:30").against == "jpeg:30"


def test_attacks_move_what_is_near_and_no_more(classifier, tmp_path, monkeypatch):
    plan = Classify(out=tmp_path, levels=(8,), steps=3, seeds=1)
    run = partial(
        ClassifierRun(classifier, windows_of(131, 200), plan).unaware_rows, [NO_DEFENCE, jpeg(90)]
    )
    rows = run()
    attacked = [row for row in rows if row.tier == "t0"]
    assert {row.attack for row in attacked} == {"pgd", "pgd-margin", "worst-of-all"}
    assert all(row.value == 0.5 and row.n == 2 for row in attacked)
    assert all(row.value == 1.0 for row in rows if row.metric == "agreement")
    assert {row.defence for row in rows} == {"none", "jpeg quality=90"}

    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(codefend.lab.classification.attacked, "attack_pixels", forbidden)
    assert run() == rows


@pytest.mark.slow
def test_the_command_writes_a_report(world_file, tmp_path, monkeypatch):
    monkeypatch.setattr("codefend.lab.classification.windows.LEAST_CONFIDENCE", 0.0)
    out = tmp_path / "report"
    detector = SuspicionDetector.tiny()
    detector.register_to_config(clean_quantiles=clean_quantiles(range(-100, 100)))
    detector.save_pretrained(tmp_path / "detector")
    told = CliRunner().invoke(
        app,
        f"classify --out {out} --detector {tmp_path / 'detector'} --world {world_file} "
        "--per-photo 1 --steps 1 --seeds 1 "
        "--victims efficientnet-lite0 --defences none,purifier,jpeg:30,noise:0.05+jpeg:40 "
        "--through jpeg:30,none/jpeg:30@0.5 "
        "--white-box.windows 1 --white-box.draws 1 --white-box.steps 1".split(),
    )
    assert told.exit_code == 0, told.output
    rows = json.loads((out / "report.json").read_text())["rows"]
    noticed = [row for row in rows if row["task"] is None]
    assert {row["metric"] for row in noticed} == {"flagged", "auroc", "tpr_at_1fpr"}
    assert {"photo", "photo-jpeg-50", "pgd"} <= {row["attack"] for row in noticed}
    rows = [row for row in rows if row not in noticed]
    assert {row["task"] for row in rows} == {"classification"}
    assert {"none", f"purifier noise_level={CONTROL_NOISE} num_steps=1"} <= {
        row["defence"] for row in rows
    }
    report = (out / "report.md").read_text()
    assert "| efficientnet-lite0 | clean | 4/255 | 8/255 | n |" in report
    assert "| noise+jpeg deviation=0.05 quality=40 |" in report
    assert "| T2: predictions left | efficientnet-lite0, 4/255 |" in report
    ways = {row["defence"]: row["gradient"] for row in rows if row["tier"] == "t2"}
    assert ways["none/jpeg suspicion>0.5 quality=30"] == "evading+surrogate+bpda"
    assert "efficientnet-lite0:\n\n| tier | images | family |" in report
    assert "| codefend" not in report  # what a detector notices is no defence's figure
    assert (out / "trade-off.png").stat().st_size > 1000
    refused = CliRunner().invoke(
        app, ["classify", "--out", str(out), "--world", str(world_file), "--victims", "resnet"]
    )
    assert isinstance(refused.exception, LabError)


def row(defence, epsilon, value):
    threat = (
        Threat(tier="t0", attack="worst-of-all", epsilon=epsilon)
        if epsilon
        else Threat(tier="clean", attack="none")
    )
    return Row(
        **asdict(threat),
        defence=defence,
        victim="v",
        task="classification",
        metric="accuracy",
        value=value,
        low=value,
        high=value,
        n=1,
        seeds=1,
    )


def test_kinds_are_compared_where_they_keep_as_much():
    kept = {"jpeg quality=20": (0.8, 0.7), "jpeg quality=40": (0.92, 0.5), "blur s=1": (0.7, 0.9)}
    rows = [
        row(name, epsilon, values[bool(epsilon)])
        for name, values in kept.items()
        for epsilon in (0.0, 4 / 255)
    ]
    assert {k: found[0].defence for k, found in best_at(rows, "v", 0.9).items()} == {
        "jpeg": "jpeg quality=40"
    }
    assert best_at(rows, "v", 0.75)["jpeg"][1].value == 0.7
    assert set(best_at(rows, "v", 0.6)) == {"jpeg", "blur"}


@pytest.mark.parametrize(("kept", "first"), [(0.17, 0.1), (0.72, 0.5)])
def test_curves_show_every_defence(kept, first):
    rows = [row("none", 0.0, 1.0), row("none", 4 / 255, 0.0)]
    rows += [row("jpeg quality=20", 0.0, kept), row("jpeg quality=20", 4 / 255, 0.1)]
    (axes,) = draw_curves(rows, ["v"]).axes
    lowest, highest = axes.get_xlim()
    assert lowest < kept < highest
    assert axes.get_xticks()[0] == first


def test_curves_have_a_panel_for_every_radius():
    rows = [row("jpeg quality=20", epsilon, 0.5) for epsilon in (0.0, 4 / 255, 8 / 255)]
    titles = [axes.get_title("left") for axes in draw_curves(rows, ["v"]).axes]
    assert titles == ["v: restored at 4/255", "v: restored at 8/255"]


WEIGHTS = {"purifier": "a" * 64}


def part(path, rows, *, weights=WEIGHTS, **changes):
    settings = Classify(out=path.parent, photos=Path("collages"), seeds=1).replace(**changes)
    meta = {"weights": weights, "settings": settings.model_dump(mode="json")}
    write_report(path.parent, meta, rows, [], stem=path.stem)
    return path


def test_reports_on_the_same_windows_stand_in_one_table(tmp_path):
    clean, near, far = (row("jpeg quality=20", e, 0.5) for e in (0.0, 4 / 255, 8 / 255))
    first = part(tmp_path / "first.json", [clean, near], most=300)
    second = part(tmp_path / "second.json", [replace(clean, n=7), replace(far, n=7)], levels=(8,))
    packed = tmp_path / "second.json.xz"
    packed.write_bytes(lzma.compress(second.read_bytes()))
    whole = Classify(
        out=tmp_path, photos="collages", seeds=1, parts=(first, packed), against="jpeg:30"
    )
    rows = whole.rows_of_parts(WEIGHTS)
    assert rows == [clean, near, replace(far, n=7)]
    (table, *_) = tables_of(rows, ["v"])
    assert table.heads == ["v", "clean", "4/255", "8/255", "n"]
    assert table.lines[0][-1] == "1 / 7"


@pytest.mark.slow
def test_a_run_of_parts_alone_asks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("codefend.lab.classification.classify.load_any_classifier", None)
    rows = [replace(row("jpeg quality=20", e, 0.5), victim="efficientnet-lite0") for e in (0, 0.1)]
    shipped = Classify(out=tmp_path).load_networks()
    weights = {name: sha256 for name, (_, sha256) in shipped.items()}
    first = part(tmp_path / "first.json", rows, weights=weights)
    Classify(out=tmp_path, photos="collages", seeds=1, parts=(first,), defences=(), levels=()).run()
    report = (tmp_path / "report.md").read_text()
    assert "| jpeg quality=20 | 50.0% [50.0%, 50.0%] | 50.0% [50.0%, 50.0%] | 1 |" in report
    assert f"Joined from {first}" in report.replace("\n", " ")


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"per_photo": 3}, "per_photo"), ({"steps": 9}, "steps"), ({"photos": None}, "photos")],
)
def test_reports_on_other_windows_do_not(changes, names, tmp_path):
    other = part(tmp_path / "other.json", [], **changes)
    whole = Classify(out=tmp_path, photos="collages", seeds=1, parts=(other,))
    with pytest.raises(LabError, match=rf"other.json differs in {names}: run it anew"):
        whole.rows_of_parts(WEIGHTS)
    with pytest.raises(LabError, match=r"differs in .*weights"):
        whole.rows_of_parts({"purifier": "b" * 64})
