"""The command from options to files, on photos and scenes; text where Tesseract is there."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from codefend.lab.cli import app
from codefend.lab.documents.document import SYSTEM_FONTS, Fonts
from codefend.lab.errors import LabError
from codefend.lab.experiments.report import Row
from codefend.lab.fidelity.command import DEFAULT_DEFENCES, defences_of
from codefend.lab.fidelity.report import write_fidelity
from codefend.models.codec import encode_image
from codefend.models.purifier.pipeline import PurificationPipeline


@pytest.fixture
def sources(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    (tmp_path / "gallery").mkdir()
    entries = []
    for number in range(2):
        pixels = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
        (tmp_path / "gallery" / f"{number}.png").write_bytes(encode_image(pixels[:32, :32]))
        entries.append({"clean": f"{number}.png"})
    (tmp_path / "gallery" / "scenes.json").write_text(json.dumps(entries))
    PurificationPipeline.tiny().save_pretrained(tmp_path / "purifier")
    return tmp_path


def options(sources: Path, tasks: str, defences: str = "purifier,jpeg=50") -> list[str]:
    given = {"out": sources / "out", "tasks": tasks, "purifier": sources / "purifier"}
    given |= {"photos": sources / "photos", "gallery": sources / "gallery", "seeds": 2}
    given |= {"defences": defences, "num-documents": 1, "text-sizes": "16"}
    return ["fidelity", *(f"--{name}={value}" for name, value in given.items())]


@pytest.mark.slow
def test_photos_and_scenes(sources):
    result = CliRunner().invoke(app, options(sources, "photo,scene"), catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads((sources / "out" / "fidelity.json").read_text())
    rows = [Row(**row) for row in document["rows"]]
    assert {(r.defence, r.task) for r in rows} == {
        (defence, task) for defence in ("purifier", "jpeg") for task in ("photo", "scene")
    }
    assert {r.metric for r in rows} == {"psnr_db", "ssim", "perceptual"}
    assert all(r.low <= r.value <= r.high and r.n == 2 for r in rows)
    assert {r.seeds for r in rows if r.defence == "purifier"} == {2}
    assert document["meta"]["defences"]["jpeg"] == "quality=50"
    assert len(document["meta"]["weights"]["purifier"]) == 64
    markdown = (sources / "out" / "fidelity.md").read_text()
    assert "| purifier |" in markdown
    assert "Reading" not in markdown


def reading_row(metric: str, defence: str, value: float) -> Row:
    fields = {field.name: 0 for field in dataclasses.fields(Row)}
    fields |= {"task": "text", "metric": metric, "defence": defence}
    return Row(**fields | {"value": value, "low": value, "high": 0.05})


def test_rises_are_points_and_never_minus_nothing(tmp_path):
    rows = [
        reading_row("character_error_rate", "none", 0.01),
        reading_row("character_error_rate_rise", "jpeg", -0.0002),
    ]
    markdown = write_fidelity(tmp_path, {"defences": {}, "reader": "tesseract 0"}, rows)
    assert "| all | 1.0% [1.0%, 5.0%] | +0.0 [+0.0, +5.0] |" in markdown


def has_fonts() -> bool:
    try:
        return bool(Fonts.find(SYSTEM_FONTS))
    except LabError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("tesseract") is None or not has_fonts(),
    reason="tesseract-ocr, fonts-dejavu-core or fonts-liberation is not installed",
)
def test_text(sources):
    given = options(sources, "text", defences="jpeg=50")
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads((sources / "out" / "fidelity.json").read_text())
    assert document["meta"]["reader"].startswith("tesseract ")
    assert "DejaVuSans.ttf" in document["meta"]["fonts"]
    found = {(r["defence"], r["metric"]): r["value"] for r in document["rows"]}
    assert found["none", "character_error_rate"] < 0.02
    for kind in ("page", "screen", "receipt"):
        assert ("jpeg", f"character_error_rate_rise:{kind}:16px") in found
    assert "| page 16px |" in (sources / "out" / "fidelity.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--tasks=photo,poem"], "--tasks takes names"),
        (["--tasks=photo", "--photos=nowhere"], "no images"),
        (["--tasks=scene", "--gallery=nowhere"], "data gallery"),
        (["--tasks=photo", "--world=nowhere.npz"], "data build"),
        (["--tasks=photo", "--defences=magic"], "unknown defence 'magic'"),
        (["--tasks=photo", "--defences=jpeg=500"], "bad setting of jpeg"),
        (["--tasks=photo", "--defences=jpeg"], "bad setting of jpeg"),
        (["--tasks=photo", "--defences=jpeg=50,jpeg=60"], "twice"),
        (["--tasks=photo", "--purifier=nowhere"], "holds no purifier"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, given, message):
    arguments = ["fidelity", f"--out={tmp_path}", "--defences=purifier", *given]
    if "--purifier=nowhere" not in given and "--defences" not in given[-1]:
        arguments[2] = "--defences=jpeg=50"
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, LabError)
    assert message in str(result.exception)


def test_defences_by_name_and_setting(tmp_path):
    PurificationPipeline.tiny().save_pretrained(tmp_path)
    texts = ["purifier=0.02", "diffpure=0.1x4", "blur=1.5", "median=3", "bit_depth=4"]
    made, weights = defences_of(texts, tmp_path, tmp_path)
    settings = {defence.name: defence.setting for defence in made}
    assert settings["purifier"].startswith("noise_level=0.02 num_steps=1 ")
    assert settings["diffpure"].startswith("noise_level=0.1 num_steps=4 ")
    assert settings["blur"] == "sigma_px=1.5"
    assert set(weights) == {"purifier", "base"}
    assert len(defences_of(DEFAULT_DEFENCES, tmp_path, tmp_path)[0]) == 6


def test_strengths_stand_beside_one_another_by_name(tmp_path):
    PurificationPipeline.tiny().save_pretrained(tmp_path)
    made, weights = defences_of(["light", "standard", "strong"], tmp_path, tmp_path)
    assert [defence.name for defence in made] == ["light", "standard", "strong"]
    assert made[0].setting.startswith("noise_level=0.05 num_steps=1 ")
    assert made[2].setting.startswith("noise_level=0.065 num_steps=2 ")
    assert set(weights) == {"purifier"}
