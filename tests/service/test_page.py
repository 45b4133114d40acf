"""The page at `/` as HTTP: where it is, who may have it, and what it may ask for."""

import json
import re

import pytest

from codefend.service.endpoints.pages import NUM_SCENES
from tests.browser.conftest import ROOT
from tests.service.running import make_settings, run_service
from tests.service.test_door import KEY, bearer


@pytest.fixture(scope="module")
def with_page(session_upstream):
    """Keys, and a page all the same."""
    with run_service(make_settings(session_upstream.url, api_keys=KEY, page=True)) as service:
        yield service


@pytest.mark.parametrize(
    ("changes", "is_shown"),
    [
        ({}, True),
        ({"api_keys": KEY}, False),
        ({"api_keys": KEY, "page": True}, True),
        ({"page": False}, False),
    ],
)
def test_it_is_there_where_no_key_is_or_it_is_wished_for(changes, is_shown):
    assert make_settings(**changes).shows_page is is_shown


@pytest.mark.slow
def test_where_it_is_not_shown_the_paths_are_unknown(session_upstream):
    with run_service(make_settings(session_upstream.url, api_keys=KEY), wait=False) as service:
        for path in ("/", "/page/page.js", "/page/scenes.json"):
            assert service.client.get(path).status_code == 401
            assert service.client.get(path, headers=bearer(KEY)).status_code == 404


@pytest.mark.slow
def test_it_needs_no_key_and_opens_nothing_else(with_page):
    assert with_page.client.get("/").status_code == 200
    assert with_page.client.get("/page/page.js").status_code == 200
    for path in ("/page", "/page/", "/docs", "/v1/models", "/page/../v1/models"):
        assert with_page.client.get(path).status_code == 401, path
    for path in (
        "/page/nothing.js",
        "/page//",
        "/page/index.html",
        "/page/..%2fpages.py",
        "/page/%2e%2e",
    ):
        assert with_page.client.get(path).status_code in {401, 404}, path
    assert with_page.client.post("/", content=b"").status_code == 405


def test_without_keys_it_is_for_this_machine_alone(service):
    """Another name may lead here: a page of its own would be let in with it."""
    assert service.client.get("/", headers={"host": "localhost:1"}).status_code == 200
    for path in ("/", "/page/page.js"):
        assert service.client.get(path, headers={"host": "evil.example"}).status_code == 403


def test_every_file_has_a_strict_policy_and_asks_nobody_else(service):
    index = service.client.get("/")
    named = re.findall(r'(?:src|href)="(page/[^"]+)"', index.text)
    modules = [name for name in named if name.endswith(".js")]
    for name in modules:
        script = service.client.get(f"/{name}").text
        modules += {f"page/{file}" for file in re.findall(r'from "\./(.+?)"', script)} - {*modules}
    assert len(modules) > 1
    for path in {"", *named, *modules, "page/scenes.json", "page/000-attacked.png"}:
        answer = service.client.get(f"/{path}")
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if not path.endswith((".png", ".json")):
            assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", answer.text) == [], path
    assert re.search(r"<style|style=|<script(?! type=\"module\" src=)| on\w+=", index.text) is None


def test_what_a_browser_has_is_not_sent_again(service):
    first = service.client.get("/page/page.css")
    assert first.headers["cache-control"] == "no-cache"
    again = service.client.get("/page/page.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_scenes_are_the_first_of_the_gallery(service):
    """As they come: none is left out because its attack or its defence failed."""
    listed = service.client.get("/page/scenes.json").json()
    entries = json.loads((ROOT / "gallery" / "scenes.json").read_text())[:NUM_SCENES]
    assert [scene["caption"] for scene in listed] == [entry["caption"] for entry in entries]
    for scene, entry in zip(listed, entries, strict=True):
        for kind in ("clean", "attacked"):
            file = ROOT / "gallery" / entry[kind]
            assert service.client.get(f"/page/{scene[kind]}").content == file.read_bytes()


@pytest.mark.slow
def test_it_says_what_its_script_has_to_know(service, with_page):
    most = service.runtime.pipeline.settings.max_body_bytes
    told = f'data-has-keys="{{}}" data-max-body-bytes="{most}"'
    assert told.format("false") in service.client.get("/").text
    assert told.format("true") in with_page.client.get("/").text
