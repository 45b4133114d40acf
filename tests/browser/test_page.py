"""The page at `/` in a real browser: its every step, and each refusal in words."""

import base64
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import ROOT
from tests.service.fake_engine import FAIL, marked
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import animated, encode, heic, picture, png
from tests.service.running import make_settings, run_service

pytestmark = pytest.mark.slow

KEY = "a-key-of-the-page"
PHOTO = {
    "name": "my 'photo'.jpg",
    "mimeType": "image/jpeg",
    "buffer": encode(picture(90, 120), "JPEG"),
}


@pytest.fixture(scope="module")
def upstream():
    with run_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def open_service(upstream):
    """Without keys."""
    settings = make_settings(
        upstream.url, engine_options={"suspects": True}, max_body_bytes=100_000
    )
    with run_service(settings) as running:
        yield running


@pytest.fixture(scope="module")
def locked_service(upstream):
    """With keys, and a page all the same; it tells nothing that is measured."""
    with run_service(
        make_settings(upstream.url, api_keys=KEY, page=True, disclose="minimal")
    ) as running:
        yield running


@pytest.fixture(scope="module")
def slow_service(upstream):
    """One request at a time, each for seconds."""
    settings = make_settings(upstream.url, engine_options={"seconds": 3.0}, max_requests=1)
    with run_service(settings) as running:
        yield running


@pytest.fixture
def page(open_page, open_service):
    return open_page(open_service.url)


def choose(page, *files):
    page.locator("#file").set_input_files(list(files))


def scene(page, number):
    return page.get_by_role("button", name=f"Scene {number}:")


def done(page):
    page.get_by_role("status").get_by_text("Done.").wait_for()


def refused(page):
    """What it says, once a request is refused."""
    alert = page.get_by_role("alert")
    alert.get_by_role("button", name="Try again").wait_for()
    assert page.locator("#result").is_hidden()
    return alert.inner_text()


def shown(page, image):
    """The pixels of an image of the page, (H, W, 3) uint8."""
    url = page.locator(image).evaluate(
        """async (image) => {
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png");
        }"""
    )
    return pixels_of_url(url)


def pixels_of_url(url):
    data = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_an_attacked_scene_is_one_click_away(page):
    scene(page, 1).click()
    done(page)
    assert page.locator("#answer").inner_text() == "a red car"
    assert page.locator("#truth").inner_text() == "True of this scene: an egg at the top left"
    before, after = shown(page, "#before"), shown(page, "#after")
    assert before.shape == (128, 128, 3)
    assert np.array_equal(after, 255 - before), "what the engine makes of it"
    assert "128 × 128" in page.locator("#compare + figcaption").inner_text()


def test_a_scene_may_be_clean(page):
    page.get_by_text("clean", exact=True).click()
    scene(page, 2).click()
    done(page)
    with Image.open(ROOT / "gallery/images/001-clean.png") as clean:
        assert np.array_equal(shown(page, "#before"), np.asarray(clean.convert("RGB")))


def test_a_photo_of_ones_own_is_dropped(page, upstream):
    upstream.bodies.clear()
    dropped = page.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "p.jpg", { type: "image/jpeg" }));
            return transfer;
        }""",
        list(PHOTO["buffer"]),
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": dropped})
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    done(page)
    assert shown(page, "#after").shape == (90, 120, 3)
    assert b"describe the image." in upstream.bodies[-1]
    assert page.locator("#truth").inner_text() == ""


def test_a_question_is_asked_by_the_keyboard_alone(page, upstream):
    page.get_by_text("ask a question").click()
    page.get_by_label("Question", exact=True).fill("is it <b>red</b>?")
    assert page.get_by_role("button", name="Send").is_disabled(), "there is no picture yet"
    choose(page, PHOTO)
    done(page)
    upstream.bodies.clear()
    page.get_by_label("Question", exact=True).fill("which colour is it?")
    page.keyboard.press("Enter")
    page.locator("#asked").get_by_text("which colour is it?").wait_for()
    done(page)
    assert "which colour is it?" in upstream.bodies[-1].decode()


def test_the_questions_of_a_scene_are_offered_with_their_answers(page):
    page.get_by_text("ask a question").click()
    scene(page, 1).click()
    done(page)
    page.get_by_role("button", name="where can i find the egg?").click()
    page.locator("#asked").get_by_text("where can i find the egg?").wait_for()
    assert page.locator("#truth").inner_text() == "True of this scene: top left"


def test_purification_alone_asks_no_model(page, upstream):
    page.get_by_text("purify alone").click()
    upstream.bodies.clear()
    choose(page, PHOTO)
    done(page)
    assert page.locator("#said").is_hidden()
    assert upstream.bodies == []


def test_the_slider_is_moved_by_keys(page):
    choose(page, PHOTO)
    done(page)
    slider = page.get_by_role("slider", name="Where the purified picture begins")
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0 % as sent, 100 % purified"
    clip = "getComputedStyle(document.getElementById('after')).clipPath"
    assert page.evaluate(clip) == "inset(0px 0px 0px 0%)"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(clip) == "inset(0px 0px 0px 3%)"
    outline = "getComputedStyle(document.getElementById('compare')).outlineStyle"
    assert page.evaluate(outline) == "solid"


def test_the_difference_is_magnified(page):
    grey = np.full((8, 8, 3), 126, np.uint8)  # the engine makes 129 of it
    choose(page, {"name": "grey.png", "mimeType": "image/png", "buffer": encode(grey)})
    done(page)
    assert page.locator("#changed").inner_text() == "3.0 of 255 levels on average, 3 at most"
    drawn = "document.getElementById('difference').toDataURL()"
    assert np.all(pixels_of_url(page.evaluate(drawn)) == 128 + 8 * 3)
    page.locator("#gain").focus()
    page.keyboard.press("ArrowRight")
    assert np.all(pixels_of_url(page.evaluate(drawn)) == 128 + 16 * 3)
    assert page.locator("#magnified").inner_text() == "×16"


def test_suspicion_and_stages_are_told(page):
    suspect = picture().copy()
    suspect[-1, -1] = (255, 0, 0)  # what the engine goes by
    choose(page, {"name": "s.png", "mimeType": "image/png", "buffer": encode(suspect)})
    done(page)
    assert page.locator("#suspicion").inner_text() == "1.00"
    assert page.get_by_text("flagged", exact=True).is_visible()
    rows = page.locator("#times tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == [
        "admit", "decode", "queue", "purify", "encode", "forward", "total"
    ]  # fmt: skip
    assert all(re.fullmatch(r"\w+\s+[\d.]+ ms", row) for row in rows)


def test_a_format_that_the_browser_cannot_show_is_purified_all_the_same(page):
    choose(page, {"name": "a.heic", "mimeType": "image/heic", "buffer": heic(picture())})
    done(page)
    assert "cannot show the format" in page.locator("#size").inner_text()
    assert page.locator("#before").is_hidden()
    assert page.locator("#after").is_visible()
    assert page.locator("#difference").is_hidden()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.png", png()[:200], "This file is damaged"),
        ("notes.txt", b"no picture at all", "This file is not taken"),
        ("moves.gif", animated("GIF"), "This picture moves"),
        ("empty.png", b"", "The image is empty."),
        ("long.png", b"x" * 120_000, "The file is too large"),
        ("vast.png", None, "The picture has too many pixels"),
    ],
)
def test_a_bad_file_is_refused_in_words(page, open_service, name, content, words):
    if content is None:
        content = encode(np.zeros((10_001, 8, 3), np.uint8))
    choose(page, {"name": name, "mimeType": "image/png", "buffer": content})
    told = refused(page)
    assert words in told
    assert len(told.splitlines()) == 3, "what happened, a sentence of it, and the button"
    choose(page, PHOTO)  # and it goes on
    done(page)
    assert page.get_by_role("alert").inner_text() == ""


def test_a_failure_within_is_told_and_tried_again(page, open_service):
    bad = encode(marked(picture(), FAIL))
    choose(page, {"name": "bad.png", "mimeType": "image/png", "buffer": bad})
    assert "could not be purified" in refused(page)
    page.get_by_role("button", name="Try again").click()
    assert "could not be purified" in refused(page)


def test_a_service_that_is_gone_is_said_to_be(page, open_service):
    page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
    choose(page, PHOTO)
    assert "Is it running?" in refused(page)


def test_a_service_that_starts_is_waited_for(page):
    answers = iter([503])
    told = {"error": {"code": "not_ready", "message": "The service is not ready yet."}}

    def once_not_ready(route):
        if next(answers, None) is None:
            route.continue_()
        else:
            route.fulfill(status=503, json=told)

    page.route("**/v1/caption", once_not_ready)
    choose(page, PHOTO)
    page.get_by_text("still starting").wait_for()
    done(page)


def test_a_request_is_cancelled(open_page, slow_service):
    page = open_page(slow_service.url)
    choose(page, PHOTO)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    assert page.locator("#result").is_hidden()
    assert page.get_by_role("button", name="Cancel").is_hidden()
    slow_service.wait_until(lambda: slow_service.metric(
        "codefend_requests_total", endpoint="/v1/caption", outcome="client_left"
    ) == 1)  # fmt: skip


def test_a_full_queue_is_said_to_be(open_page, slow_service):
    slow_service.wait_until(lambda: not slow_service.runtime.in_flight.num_inside)
    page, other = open_page(slow_service.url), open_page(slow_service.url)
    choose(other, PHOTO)
    slow_service.wait_until(lambda: slow_service.runtime.in_flight.num_inside)
    choose(page, PHOTO)
    told = refused(page)
    assert "The queue is full" in told
    assert re.search(r"Try again in \d+ s\.", told)
    done(other)


def test_with_keys_it_asks_for_one_and_keeps_it_nowhere(open_page, locked_service):
    page = open_page(locked_service.url)
    choose(page, PHOTO)
    assert "A key is needed" in refused(page)
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Send").click()
    done(page)
    assert page.locator("#suspicion").inner_text() == "not told"
    assert "does not tell its times" in page.locator("#times-note").inner_text()
    assert KEY not in page.locator("#code").inner_text()
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert kept == '[{},{},""]'
    page.reload()
    assert page.get_by_label("API key").input_value() == ""


@pytest.mark.parametrize("language", ["curl", "Python"])
@pytest.mark.parametrize("is_scene", [True, False], ids=["scene", "photo"])
def test_what_is_to_be_copied_runs(page, tmp_path, language, is_scene):
    """With a name and a question that would end a string in a shell, if it were not quoted."""
    page.get_by_text("ask a question").click()
    page.get_by_label("Question", exact=True).fill("is it 'red' \"or\" $HOME; @x\\?")
    if is_scene:
        scene(page, 3).click()
    else:
        (tmp_path / PHOTO["name"]).write_bytes(PHOTO["buffer"])
        choose(page, PHOTO)
    done(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_text(language, exact=True).click()
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied.").wait_for()
    code = page.evaluate("navigator.clipboard.readText()")
    program = ["bash", "-c"] if language == "curl" else [sys.executable, "-c"]
    ran = subprocess.run([*program, code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "a red car" in ran.stdout


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page, open_service, violations, scheme):
    page = open_page(open_service.url, color_scheme=scheme)
    scene(page, 1).wait_for()
    assert violations(page) == []
    page.get_by_text("ask a question").click()
    scene(page, 1).click()
    done(page)
    assert violations(page) == []
    page.set_viewport_size({"width": 360, "height": 700})
    assert violations(page) == []
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0, "it scrolls sideways on a phone"
    choose(page, {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    refused(page)
    assert violations(page) == []


def test_axe_finds_nothing_where_there_are_keys(open_page, locked_service, violations):
    assert violations(open_page(locked_service.url)) == []
