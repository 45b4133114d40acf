"""Pages of listed origins may use the service from a browser; others are told nothing."""

import pytest

from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form
from tests.service.test_chat import chat, text_part, user
from tests.service.test_door import bearer, speak

KEY, LISTED = "secret-key-1", "https://app.example"


@pytest.fixture(scope="module")
def shared(session_upstream):
    settings = make_settings(
        session_upstream.url,
        api_keys=f"{KEY},another",
        cors_origins=f"{LISTED},http://localhost:3000",
        max_requests_per_minute=1000,
    )
    with run_service(settings) as service:
        yield service


def preflight(service, origin, method="POST", headers="authorization, x-stainless-os"):
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return service.client.options("/v1/vqa", headers={"Origin": origin} | asked)


def told(response):
    return {name for name in response.headers if name.startswith("access-control")}


@pytest.mark.parametrize("origin", [LISTED, "http://localhost:3000"])
def test_a_preflight_needs_no_key_and_takes_no_slot(shared, origin):
    before = shared.metric("codefend_requests_total", endpoint="/v1/vqa", outcome="ok")
    response = preflight(shared, origin)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert "x-stainless-os" in response.headers["access-control-allow-headers"]
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in response.headers
    assert "Origin" in response.headers["vary"]
    assert shared.metric("codefend_requests_total", endpoint="/v1/vqa", outcome="ok") == before


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.evil", "http://app.example"]
)
def test_an_origin_that_is_not_listed_gets_nothing(shared, origin):
    response = preflight(shared, origin)
    assert response.status_code == 401
    assert told(response) == set()
    assert origin not in str(response.headers)
    response = shared.client.get("/v1/models", headers=bearer(KEY) | {"Origin": origin})
    assert response.status_code == 200  # the browser keeps it from the page
    assert told(response) == set()
    assert response.headers["vary"] == "Origin"


def test_two_origins_are_none(shared):
    head = (
        f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: {LISTED}\r\nOrigin: https://b.c\r\n"
    )
    assert b"access-control" not in speak(shared, head.encode())[2]


@pytest.mark.parametrize("body", ["Content-Length: 33554432", "Transfer-Encoding: chunked"])
def test_a_preflight_with_a_body_is_refused_before_it_is_read(shared, body):
    head = (
        f"OPTIONS /v1/vqa HTTP/1.1\r\nHost: localhost\r\nOrigin: {LISTED}\r\n"
        f"Access-Control-Request-Method: POST\r\n{body}\r\n"
    )
    status, is_closed, answer = speak(shared, head.encode())
    assert (status, is_closed) == (400, True)
    assert b"unexpected_body" in answer


def readable(response):
    """Whether a page of the listed origin may read it, and all its headers."""
    allowed, exposed = (
        response.headers.get(f"access-control-{name}")
        for name in ("allow-origin", "expose-headers")
    )
    return (allowed, exposed) == (LISTED, "*")


def test_answers_streams_and_errors_can_be_read(shared, monkeypatch):
    origin = {"Origin": LISTED}
    known = origin | bearer(KEY)
    asked = as_form(png(), question="?")
    for path, stream in (("/v1/vqa", "false"), ("/v1/vqa", "true")):
        form = as_form(png(), question="?", stream=stream)
        response = shared.client.post(path, headers=known, **form)
        assert (response.status_code, readable(response)) == (200, True)
    streamed = {"json": chat(user(text_part("?")), stream=True)}
    response = shared.client.post("/v1/chat/completions", headers=known, **streamed)
    assert (response.status_code, readable(response)) == (200, True)
    assert response.headers["content-type"].startswith("text/event-stream")
    response = shared.client.post("/v1/vqa", headers=origin, **asked)
    assert (response.status_code, readable(response)) == (401, True)
    limiter = shared.runtime.limiter
    monkeypatch.setattr(limiter, "is_draining", True)
    response = shared.client.post("/v1/vqa", headers=known, **asked)
    assert (response.status_code, readable(response)) == (503, True)
    monkeypatch.setattr(limiter, "is_draining", False)
    with shared.changed(max_requests_per_minute=1):
        shared.client.get("/v1/models", headers=known)
        response = shared.client.get("/v1/models", headers=known)
    assert (response.status_code, readable(response)) == (429, True)


def test_it_is_off_unless_set(service):
    response = preflight(service, LISTED)
    assert response.status_code == 405
    assert told(response) == set()
    assert told(service.client.get("/healthz", headers={"Origin": LISTED})) == set()


def test_with_keys_every_page_may_be_let_in(session_upstream):
    settings = make_settings(session_upstream.url, api_keys=KEY, cors_origins="*")
    with run_service(settings) as service:
        headers = bearer(KEY) | {"Origin": "https://any.example"}
        response = service.client.get("/v1/models", headers=headers)
        assert response.headers["access-control-allow-origin"] == "*"
        assert preflight(service, "https://any.example").status_code == 200
