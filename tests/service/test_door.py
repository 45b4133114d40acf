"""A service with keys and a metrics port of its own: who is let in, and what the log may say."""

import base64
import hashlib
import io
import json
import logging
import re
import socket

import httpx
import pytest

from codefend.service.app import create_app
from codefend.service.logs import configure_logs
from codefend.service.policy import PROBES
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


@pytest.mark.parametrize("path", sorted(PROBES))
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


def speak(service, head, body=b""):
    """Sends a request by hand; returns its status, and whether the connection was closed."""
    with socket.create_connection(service.address, timeout=10) as connection:
        connection.sendall(head + b"\r\n" + body)
        answer = b""
        while not answer.partition(b"\r\n\r\n")[2]:
            piece = connection.recv(65536)
            if not piece:
                break
            answer += piece
        return int(answer.split()[1]), b"connection: close" in answer, answer


def test_two_keys_are_refused_before_either_is_looked_at(locked):
    key = f"Authorization: Bearer {KEY}\r\n".encode()
    head = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n"
    assert speak(locked, head + key)[0] == 200
    status, _, answer = speak(locked, head + key + key)
    assert status == 400
    assert b"ambiguous_key" in answer


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/openapi.json", "/nothing"])
@pytest.mark.parametrize("body", ["Content-Length: 33554432", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_body_where_none_belongs_is_refused_before_it_is_read(locked, method, path, body):
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n{body}\r\n"
    )
    status, is_closed, _ = speak(locked, head.encode(), b"x" if "Length" in body else b"")
    assert (status, is_closed) == (400, True)


def test_an_empty_body_is_none(locked):
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
    assert speak(locked, head)[:2] == (200, False)


ROUTES = create_app(make_settings()).openapi()["paths"] | {
    "/docs": ["get"],
    "/openapi.json": ["get"],
}
GETS = sorted(path for path, methods in ROUTES.items() if "get" in methods)


@pytest.mark.parametrize("path", [path for path in GETS if path != "/metrics"])
def test_head_is_get_without_a_body(locked, path):
    asked, told = (
        locked.client.request(method, path, headers=bearer(KEY)) for method in ("GET", "HEAD")
    )
    assert (told.status_code, told.content) == (asked.status_code, b"")
    for response in (asked, told):
        del response.headers["date"], response.headers["x-request-id"]
    assert told.headers == asked.headers
    is_open = path in PROBES
    assert locked.client.head(path).status_code == (asked.status_code if is_open else 401)


def test_head_is_of_no_use_where_there_is_no_get(locked, metrics_port):
    assert locked.client.head("/v1/vqa", headers=bearer(KEY)).status_code == 405
    assert locked.client.head("/nothing", headers=bearer(KEY)).status_code == 404
    assert httpx.head(f"http://127.0.0.1:{metrics_port}/metrics").content == b""


def test_a_head_leaves_the_connection_usable(locked):
    with httpx.Client(base_url=locked.url) as client:
        assert [client.head("/healthz").status_code for _ in range(2)] == [200, 200]
        assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "coding", ["gzip", "deflate", "br", "zstd", "x-unheard-of", "identity, gzip"]
)
@pytest.mark.parametrize("path", sorted(path for path in ROUTES if "post" in ROUTES[path]))
def test_a_compressed_body_is_refused_before_it_is_read(locked, path, coding):
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Encoding: {coding}\r\nContent-Length: 33554432\r\n"
    )
    status, is_closed, answer = speak(locked, head.encode(), b"x")
    assert (status, is_closed) == (415, True)
    assert b"unsupported_encoding" in answer
    assert b"accept-encoding: identity" in answer


def test_a_body_that_is_said_to_be_as_it_is_is_taken(locked):
    headers = bearer(KEY) | {"Content-Encoding": "Identity"}
    assert locked.client.post("/v1/purify", headers=headers, **as_form(png())).status_code == 200


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_a_slash_at_the_end_of_any_path_leads_to_the_same_route(locked, path):
    method = next(iter(ROUTES[path])).upper()
    path = path.replace("{model}", "first-model")
    body = {} if method == "GET" else {"content": b""}
    headers = bearer(KEY) | {"X-Request-ID": "asked-twice"}  # Anthropic's errors repeat it
    straight, slashed = (
        locked.client.request(method, spelled, headers=headers, **body)
        for spelled in (path, f"{path}/")
    )
    assert (slashed.status_code, slashed.content) == (straight.status_code, straight.content)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthz/", 200), ("/v1/models/", 200), ("/docs/", 200), ("/healthz//", 404), ("/", 404)],
)
def test_a_slash_at_the_end_leads_to_the_same_route_and_nobody_is_sent_elsewhere(
    locked, path, status
):
    response = locked.client.get(path, headers=bearer(KEY) | {"Host": "evil.example"})
    assert response.status_code == status
    assert "location" not in response.headers


def test_a_slash_at_the_end_changes_no_right(locked):
    assert locked.client.get("/v1/models/").status_code == 401
    assert locked.client.post("/v1/purify/", **as_form(png())).status_code == 401


@pytest.mark.parametrize("path", ["/v1/%6dodels", "/v1/models%2f", "http://localhost/v1/models"])
def test_other_spellings_of_a_path_are_behind_the_same_key(locked, path):
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n"
    assert speak(locked, head.encode())[0] == 401
    assert speak(locked, f"{head}Authorization: Bearer {KEY}\r\n".encode())[0] == 200


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(locked, method):
    response = locked.client.request(method, "/v1/models", headers=bearer(KEY))
    assert response.status_code == 405


def test_the_page_of_documentation_asks_nobody_else(locked):
    response = locked.client.get("/docs", headers=bearer(KEY))
    assert response.status_code == 200
    page, policy = response.text, response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    for outside in ('src="http', 'href="http', "@import", "sourceMappingURL="):
        assert outside not in page
    style, rest = page.partition("<style>")[2].split("</style>", 1)
    assert "url(http" not in style.replace('"', "")
    scripts = re.findall(r"<script>(.*?)</script>", rest, re.DOTALL)
    digests = [
        base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts
    ]
    assert all(f"'sha256-{digest}'" in policy for digest in digests)
    assert len(scripts) == 2
    described = rest.partition('id="openapi">')[2].partition("</script>")[0]
    assert json.loads(described) == locked.client.get("/openapi.json", headers=bearer(KEY)).json()


def test_the_metrics_port_has_the_same_door(metrics_port, locked):
    with socket.create_connection(("127.0.0.1", metrics_port), timeout=10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + b"a:b\r\n" * 1000)
        assert connection.recv(12) == b"HTTP/1.1 431"
    silent = [socket.create_connection(("127.0.0.1", metrics_port)) for _ in range(50)]
    assert "codefend_" in httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    for connection in silent:
        connection.close()
