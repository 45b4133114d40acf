"""A service with keys and a metrics port of its own: who is let in, and what the log may say."""

import hashlib
import io
import json
import logging
import socket

import httpx
import pytest

from service.logs import configure_logs
from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form
from tests.service.test_chat import chat, image_part, text_part, user

KEY = "secret-key-1"


@pytest.fixture(scope="module")
def metrics_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def locked(session_upstream, metrics_port):
    settings = make_settings(
        session_upstream.url,
        api_keys=f"{KEY},another",
        upstream_key="upstream-secret",
        metrics_port=metrics_port,
    )
    with run_service(settings) as service:
        yield service


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"Authorization": KEY}])
@pytest.mark.parametrize("path", ["/v1/purify", "/v1/vqa", "/docs", "/openapi.json", "/nothing"])
def test_everything_but_the_probes_is_behind_the_key(locked, path, headers):
    response = locked.client.post(path, headers=headers, content=b"")
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_are_open(locked, path):
    assert locked.client.get(path).status_code == 200


@pytest.mark.parametrize("key", [KEY, "another"])
def test_every_key_opens(locked, key):
    response = locked.client.post("/v1/purify", headers=bearer(key), **as_form(png()))
    assert response.status_code == 200


def test_metrics_move_to_their_own_port(locked, metrics_port):
    assert locked.client.get("/metrics", headers=bearer(KEY)).status_code == 404
    assert "codefend_" in httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text


def test_the_upstream_gets_its_own_key_and_never_ours(locked, session_upstream):
    session_upstream.headers.clear()
    locked.client.post("/v1/vqa", headers=bearer(KEY), **as_form(png(), question="?"))
    assert session_upstream.headers[-1]["Authorization"] == "Bearer upstream-secret"
    assert KEY not in str(session_upstream.headers)


@pytest.mark.parametrize("path", ["/v1/vqa", "/v1/chat/completions"])
def test_logs_hold_hashes_and_never_prompts_or_keys(locked, monkeypatch, path):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    before = logging.getLogger().handlers[:], logging.getLogger().level
    configure_logs("debug")
    try:
        arguments = {
            "/v1/vqa": as_form(png(), question="a private question"),
            "/v1/chat/completions": {
                "json": chat(user(text_part("a private question"), image_part(png())))
            },
        }[path]
        response = locked.client.post(path, headers=bearer(KEY), **arguments)
        locked.settle()
    finally:
        logging.getLogger().handlers[:] = before[0]
        logging.getLogger().setLevel(before[1])
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    request = next(line for line in lines if line["message"] == "request")
    assert request["request_id"] == response.headers["x-request-id"]
    assert (request["outcome"], request["status"]) == ("ok", 200)
    (image,) = (line for line in lines if line["message"] == "image")
    assert image["request_id"] == request["request_id"]
    assert image["logger"] == "codefend.audit"
    assert (image["outcome"], image["format"], image["width"]) == ("ok", "PNG", 64)
    assert image["sha256"] == hashlib.sha256(png()).hexdigest()
    assert image["caller"].startswith("key-")
    assert (image["cached"], image["suspicion"], image["flagged"]) == (False, None, None)
    assert {"decode", "queue", "purify", "encode", "forward"} <= set(image["timings_ms"])
    for secret in (KEY, "upstream-secret", "private question", "iVBOR"):
        assert secret not in stream.getvalue()
