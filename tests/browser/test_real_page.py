"""`codefend serve` as a user starts it, and its page: the shipped weights, and the screenshots."""

import os
import socket
import subprocess
import sys

import httpx
import pytest

from tests.browser.conftest import ROOT
from tests.service.running import wait_until_ready

pytestmark = pytest.mark.slow

START_TIMEOUT_S = 400


@pytest.fixture(scope="module")
def address():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {n: v for n, v in os.environ.items() if not n.startswith("CODEFEND_")}
    command = [sys.executable, "-m", "codefend.service.cli", "serve"]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        command, cwd=ROOT, env=environment | {"CODEFEND_PORT": str(port)}, stderr=subprocess.DEVNULL
    ) as process:
        try:
            with httpx.Client(base_url=url) as client:
                wait_until_ready(client, process, START_TIMEOUT_S)
            yield url
        finally:
            process.terminate()


def answer(page):
    page.get_by_role("status").get_by_text("Done.").wait_for()
    return page.locator("#answer").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_attacked_scene_is_purified_and_understood(open_page, address, shoot, scheme):
    page = open_page(address, color_scheme=scheme)
    page.get_by_text("ask a question").click()
    page.get_by_role("button", name="Scene 8:").click()
    answer(page)
    page.get_by_role("button", name="what stands at the center?").click()
    page.locator("#asked").get_by_text("what stands at the center?").wait_for()
    assert answer(page) == "banana"
    assert page.locator("#truth").inner_text() == "True of this scene: banana"
    assert float(page.locator("#suspicion").inner_text()) > 0.99
    assert page.get_by_text("flagged", exact=True).is_visible()
    if scheme == "light":
        shoot(page, "page", full_page=True)


def test_a_clean_scene_is_left_in_peace(open_page, address):
    page = open_page(address)
    page.get_by_text("clean", exact=True).click()
    page.get_by_role("button", name="Scene 8:").click()
    assert "banana" in answer(page)
    assert float(page.locator("#suspicion").inner_text()) < 0.99
    assert page.get_by_text("flagged", exact=True).is_hidden()
