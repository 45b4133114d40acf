import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.gallery.pictures import draw_gallery_sheet, draw_picture
from codefend.lab.gallery.scenes import ask_gallery, build_gallery
from codefend.lab.victims.victim import Victim
from codefend.lab.world.compose import World
from codefend.models.purifier.pipeline import PurificationPipeline

ROOT = Path(__file__).parents[3]


def _largest_change(folder: Path, entry: dict[str, str]) -> int:
    """In levels of 255, over all pixels of a scene."""
    clean, attacked = (
        np.asarray(Image.open(folder / entry[key])).astype(int) for key in ("clean", "attacked")
    )
    return int(np.abs(clean - attacked).max())


@pytest.fixture(scope="module")
def gallery(world: World, victim: Victim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gallery")
    build_gallery(world, victim, out, num_scenes=2, epsilon=8 / 255, steps=2)
    return out


def test_every_scene_has_its_truth_its_bound_and_its_licence(gallery: Path) -> None:
    entries = json.loads((gallery / "scenes.json").read_text())
    assert len(entries) == 2
    for entry in entries:
        clean, attacked = (
            np.asarray(Image.open(gallery / entry[key])).astype(int)
            for key in ("clean", "attacked")
        )
        assert 0 < np.abs(clean - attacked).max() <= 8
        assert entry["caption"]
        of_signs = ["the sign" in asked["question"] for asked in entry["questions"]]
        assert sum(of_signs) <= 1  # few signless scenes are asked what their sign says
        assert len(of_signs) == 5 + sum(of_signs)
        assert "MIT" in entry["licence"]


def test_a_gallery_without_a_telling_scene_is_said_to_be_so(gallery: Path, victim: Victim) -> None:
    with pytest.raises(LabError, match="no gallery scene"):
        draw_picture(gallery, victim, PurificationPipeline.tiny(), gallery / "out.png")


def test_the_sheet_shows_every_scene_asked_for(
    gallery: Path, victim: Victim, tmp_path: Path
) -> None:
    heights = []
    for num_scenes in (1, 2):
        out = tmp_path / f"{num_scenes}.png"
        pipeline = PurificationPipeline.tiny()
        draw_gallery_sheet(gallery, victim, pipeline, out, num_scenes=num_scenes)
        with Image.open(out) as image:
            heights.append(image.height)
    assert heights[1] > 1.5 * heights[0]
    with pytest.raises(LabError, match="data gallery"):
        draw_gallery_sheet(tmp_path, victim, PurificationPipeline.tiny(), tmp_path / "none.png")


class _AlwaysYes(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"answer": "Yes."}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_answers_over_http_are_counted(gallery: Path) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), _AlwaysYes)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        score = ask_gallery(gallery, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    entries = json.loads((gallery / "scenes.json").read_text())
    answers = [question["answer"] for entry in entries for question in entry["questions"]]
    assert score.num_questions == len(answers)
    assert score.num_right == answers.count("yes")


def test_no_service_is_said_to_be_so(gallery: Path) -> None:
    with pytest.raises(LabError, match="no service"):
        ask_gallery(gallery, "http://127.0.0.1:9")


def test_the_shipped_gallery_is_whole() -> None:
    entries = json.loads((ROOT / "gallery" / "scenes.json").read_text())
    assert len(entries) >= 48
    for entry in entries:
        bound = round(entry["attack"]["epsilon"] * 255)
        assert 0 < _largest_change(ROOT / "gallery", entry) <= bound
        assert entry["licence"]
