"""The worked examples of docs/extending.md, run as they stand."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codefend.lab.attacks.registry import ATTACKS
from codefend.lab.baselines.named import DEFENCES
from codefend.service import protocols
from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.errors import ImageTooLarge
from codefend.service.formats.table import FORMATS
from codefend.service.protocols.base import all_protocols
from tests.service import fake_upstream
from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_chat import image_part, text_part, user

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()


def example(heading):
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return code


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder to write into that has what the examples read."""
    for name in ("gallery", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code, **names):
    exec(compile(code, "docs/extending.md", "exec"), names)
    return names


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.slow
def test_the_attack_stays_within_its_bound_and_uses_it(checkout, monkeypatch):
    monkeypatch.setitem(ATTACKS, "momentum", None)
    run(example("An attack"), __name__="example")
    change = np.abs(pixels("attacked.png") - pixels("gallery/images/000-clean.png"))
    assert change.max() == 8
    assert np.median(change) >= 4


def test_the_defence_is_known_by_its_name_and_loses_fine_patterns(checkout, monkeypatch):
    monkeypatch.setitem(DEFENCES, "rescale", None)
    run(example("A defence"))
    attacked, defended = (
        np.abs(np.diff(pixels(path), axis=1)).mean()
        for path in ("gallery/images/000-attacked.png", "defended.png")
    )
    assert defended < 0.7 * attacked


def test_the_format_is_decoded_and_a_bomb_is_refused_unopened(monkeypatch, capsys):
    monkeypatch.setitem(FORMATS, "BMP", None)
    names = run(example("An image format"))
    assert capsys.readouterr().out == "BMP (30, 40, 3)\n"
    bomb = bytearray(names["file"].getvalue())
    bomb[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(ImageTooLarge):
        decode_picture(bytes(bomb), PictureLimits(max_pixels=1_000_000, max_side_px=100_000))


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    (tmp_path / "example_embeddings.py").write_text(example("A protocol"))
    monkeypatch.setattr(protocols, "__path__", [*protocols.__path__, str(tmp_path)])
    monkeypatch.setitem(
        fake_upstream.ANSWERS,
        "/v1/embeddings",
        lambda _: ({"object": "list", "data": [{"index": 0, "embedding": [0.5]}]}, ""),
    )
    importlib.invalidate_caches()
    all_protocols.cache_clear()
    yield
    all_protocols.cache_clear()


@pytest.mark.slow
def test_the_protocol_purifies_pictures_and_refuses_what_it_does_not_know(embeddings):
    picture = png(16, 16)
    body = {"model": "m", "messages": [user(image_part(picture), text_part("a car"))]}
    with (
        fake_upstream.run_upstream() as upstream,
        run_service(make_settings(upstream.url)) as service,
    ):
        answer = service.client.post("/v1/embeddings", json=body)
        refused = service.client.post("/v1/embeddings", json=body | {"image_urls": ["x"]})
    assert answer.status_code == 200
    assert answer.json()["data"][0]["embedding"] == [0.5]
    assert len(answer.json()["codefend"]["images"]) == 1
    (forwarded,) = upstream.bodies
    assert b"a car" in forwarded
    assert image_part(picture)["image_url"]["url"].encode() not in forwarded
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "image_urls"
