"""`make playground` in a real browser: every step of it, with the shipped weights."""

import os
import re
import socket
import subprocess

import pytest

from tests.browser.conftest import ROOT
from tests.browser.test_page import PHOTO
from tests.service.running import wait_until

pytestmark = pytest.mark.slow

START_TIMEOUT_S = 400
PYTHON = ROOT / ".venv" / "playground" / "bin" / "python"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    if not PYTHON.exists():
        pytest.skip("Gradio is not installed: make test-browser")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [PYTHON, "-m", "codefend.lab.cli", "playground", "--port", str(port)]
    log = tmp_path_factory.mktemp("playground") / "log"
    environment = os.environ | {"GRADIO_TEMP_DIR": str(log.parent / "files")}
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until(lambda: f"ready at {url}/" in said(process, log), START_TIMEOUT_S)
            assert "public link" not in said(process, log)
            yield url
        finally:
            process.terminate()


def said(process, log):
    assert process.poll() is None, log.read_text()
    return log.read_text()


@pytest.fixture
def page(open_page, address):
    page = open_page(address)
    button(page, "Attack").wait_for()
    return page


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def says(page, words, timeout_s=240):
    page.locator("#status").get_by_text(words).wait_for(timeout=1000 * timeout_s)


def set_steps(page, number):
    page.get_by_role("spinbutton", name="Steps").fill(str(number))


def rows(page):
    return [row.split("\t") for row in page.locator("#answers tbody tr").all_inner_texts()]


def choose(page, file):
    page.locator("#photo input[type=file]").set_input_files(file)


def picked_url(page):
    return page.locator("#picked img").get_attribute("src")


def test_a_scene_is_attacked_and_purified_and_compared(page, shoot):
    before = picked_url(page)
    page.locator("#scenes button.thumbnail-item").nth(2).click()
    page.wait_for_function("url => document.querySelector('#picked img').src !== url", arg=before)
    set_steps(page, 20)
    button(page, "Attack").click()
    says(page, re.compile(r"Step \d+ of 20"))
    says(page, "Attacked in 20 steps")
    says(page, "True of the scene")
    names = ["clean", "attacked", "light", "standard", "strong"]
    wait_until(lambda: len(rows(page)) == len(names))
    for row, name in zip(rows(page), names, strict=True):
        assert name in row[0]
        assert len(row) == 3
    assert page.locator("#pictures img").count() >= len(names)
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    shoot(page, "playground", full_page=True)


def test_a_photo_of_ones_own_is_attacked(page):
    before = picked_url(page)
    choose(page, PHOTO)
    page.wait_for_function("url => document.querySelector('#picked img').src !== url", arg=before)
    set_steps(page, 5)
    page.get_by_label("Target").fill("a pizza")
    button(page, "Attack").click()
    says(page, "Attacked in 5 steps")
    wait_until(lambda: len(rows(page)) == 5)


def test_the_attacker_may_know_the_defence_at_any_strength(page):
    assert page.get_by_label("standard").is_checked()
    page.get_by_label("strong").check()
    page.get_by_label("The attacker knows the defence").check()
    set_steps(page, 5)
    button(page, "Attack").click()
    says(page, "Attacked in 5 steps")
    wait_until(lambda: len(rows(page)) == 5)


def test_a_picture_is_purified_as_it_is(page):
    button(page, "Purify as it is").click()
    says(page, "Not attacked.")
    wait_until(lambda: len(rows(page)) == 4)


def test_an_attack_is_cancelled(page):
    set_steps(page, 200)
    page.get_by_label("The attacker knows the defence").check()
    button(page, "Attack").click()
    says(page, re.compile(r"Step \d+ of 200"))
    button(page, "Cancel").click()
    says(page, re.compile(r"Cancelled at step \d+ of 200"))
    assert len(rows(page)) < 4


def test_a_bad_file_and_a_bad_wish_are_told_in_words(page):
    bad = {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"}
    choose(page, bad)
    page.get_by_text("notes.png cannot be read as a picture").wait_for()
    page.get_by_label("Target").fill("a pizza")
    page.get_by_label("The attacker knows the defence").check()
    button(page, "Attack").click()
    page.get_by_text("leave the target").wait_for()
