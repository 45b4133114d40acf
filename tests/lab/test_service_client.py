"""The client of a running service, against a scripted server and against CoDefend itself."""

import base64
import io
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.service_client import ServiceClient
from codefend.models.codec import encode_image
from tests.service.fake_upstream import run_upstream
from tests.service.running import make_settings, run_service

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
PNG = encode_image(PIXELS)
SECRET = "sk-never-shown"


class Script:
    """Answers requests with what stands in its list, the last entry for ever."""

    def __init__(self):
        self.answers = []
        self.seen = []
        self.lock = threading.Lock()

    def next(self):
        with self.lock:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script = None

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.script.seen.append((self.path, dict(self.headers), body))
        answer = self.script.next()
        status, headers, content = answer(body) if callable(answer) else answer
        if status is None:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def says(text):
    part = {"name": "codefend", "version": "1"}
    defence = {"purifier": part, "prompt_template": None}
    answer = {"answer": text, "caption": text, "defense": defence}
    return 200, {}, json.dumps(answer).encode()


def fails(status, message="no", **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, names, json.dumps({"error": {"message": message}}).encode()


@pytest.fixture(scope="module")
def server():
    handler = type("ScriptedHandler", (Handler,), {})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield handler, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def script(server):
    server[0].script = Script()
    return server[0].script


@pytest.fixture
def waits():
    return []


@pytest.fixture
def client(server, waits):
    with httpx.Client(base_url=server[1], timeout=5.0) as http:
        yield ServiceClient(http, waits.append)


def test_asks_with_a_png_and_no_key_of_its_own(client, script):
    script.answers = [says("a red car")]
    assert client.ask(PNG, "what is it?", max_tokens=9).text == "a red car"
    ((path, headers, body),) = script.seen
    assert path == "/v1/vqa"
    assert "Authorization" not in headers
    assert (body["question"], body["max_tokens"], body["temperature"]) == ("what is it?", 9, 0)
    header, _, data = body["image"].partition(",")
    assert header == "data:image/png;base64"
    assert base64.b64decode(data) == PNG


def test_a_key_is_sent_and_never_shown(server, script):
    script.answers = [fails(401, "wrong key")]
    client = ServiceClient.connect(server[1], key=SECRET)
    with client.http, pytest.raises(LabError, match=r"401: .*wrong key") as refused:
        client.ask(PNG, "what?", max_tokens=4)
    assert SECRET not in repr(client) + str(refused.value)
    assert script.seen[0][1]["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("status", [429, 503])
def test_asks_again_as_long_as_the_service_is_busy(client, script, waits, status):
    script.answers = [fails(status), fails(status), says("yes")]
    assert client.ask(PNG, "really?", max_tokens=4).text == "yes"
    assert waits == [1.0, 1.0]


def test_waits_as_long_as_it_is_told(client, script, waits):
    script.answers = [fails(429, retry_after="7"), fails(503, retry_after="0"), says("yes")]
    assert client.ask(PNG, "really?", max_tokens=4).text == "yes"
    assert waits == [7.0, 0.1]


def test_gives_up_after_the_last_attempt(client, script, waits):
    script.answers = [fails(503, "overloaded")]
    with pytest.raises(LabError, match=r"503: .*overloaded"):
        client.ask(PNG, "really?", max_tokens=4)
    assert len(script.seen) == 60
    assert len(waits) == 59


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 302, 500, 502])
def test_a_refusal_is_not_repeated(client, script, waits, status):
    script.answers = [fails(status), says("never asked for")]
    with pytest.raises(LabError, match=f"answered {status}"):
        client.ask(PNG, "really?", max_tokens=4)
    assert not waits


def test_retry_after_may_be_a_date_or_nonsense(client, script, waits):
    def at(seconds):
        date = datetime.now(UTC) + timedelta(seconds=seconds)
        return fails(429, retry_after=format_datetime(date, usegmt=True))

    script.answers = [at(30), at(-30), fails(429, retry_after="soon"), says("yes")]
    assert client.ask(PNG, "really?", max_tokens=4).text == "yes"
    told, past, nonsense = waits
    assert 27 <= told <= 30
    assert (past, nonsense) == (0.1, 1.0)


@given(retry_after=st.none() | st.text(st.characters(codec="ascii", categories=["L", "N", "P"])))
def test_no_retry_after_is_too_odd_to_wait_for(retry_after):
    waits = []
    headers = {} if retry_after is None else {"retry-after": retry_after}
    answers = [httpx.Response(429, headers=headers), httpx.Response(200, json={"answer": "x"})]
    transport = httpx.MockTransport(lambda request: answers.pop(0))
    with httpx.Client(transport=transport, base_url="http://service") as http:
        ServiceClient(http, waits.append).post("/v1/vqa", {})
    (wait_s,) = waits
    assert 0.1 <= wait_s < float("inf")


def test_a_silent_or_absent_server_is_an_error(server, script):
    def silent(_):
        time.sleep(0.5)
        return says("too late")

    script.answers = [silent]
    for url, error in ((server[1], "ReadTimeout"), ("http://127.0.0.1:9", "ConnectError")):
        client = ServiceClient.connect(url, timeout_s=0.1)
        with client.http, pytest.raises(LabError, match=error):
            client.ask(PNG, "really?", max_tokens=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"answer": "I am no CoDefend"}', "no CoDefend service"),
        (b'{"answer": "x", "defense": {"purifier": 1}}', "no CoDefend service"),
    ],
)
def test_nonsense_is_an_error(client, script, content, message):
    script.answers = [(200, {}, content)]
    with pytest.raises(LabError, match=message):
        client.ask(PNG, "really?", max_tokens=4)


def test_refuses_urls_that_are_not_of_http():
    with pytest.raises(LabError, match="http"):
        ServiceClient.connect("ftp://example.org")


@pytest.fixture(scope="module")
def upstream():
    with run_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def running(upstream):
    with run_service(make_settings(upstream.url)) as service:
        yield service


@pytest.fixture
def codefend(running, upstream):
    upstream.status = 200
    upstream.bodies.clear()
    client = ServiceClient.connect(running.url)
    with client.http:
        yield client


@pytest.mark.slow
def test_codefend_answers_and_shows_the_purified_image(codefend, upstream):
    """Its engine in tests inverts images: what comes back, and what the model saw, is known."""
    answer = codefend.ask(PNG, "what is it?", max_tokens=12)
    assert answer.text == "a red car"
    purified = base64.b64decode(answer.purified.partition(",")[2])
    assert np.array_equal(np.array(Image.open(io.BytesIO(purified))), 255 - PIXELS)
    assert answer.defence.startswith("fake ")
    assert answer.disclosure == "full"
    asked = json.loads(upstream.bodies[-1])
    assert asked["max_tokens"] == 12
    assert "what is it?" in json.dumps(asked)


@pytest.mark.slow
def test_codefend_describes(codefend):
    assert codefend.ask(PNG, None, max_tokens=12).text == "a red car"


@pytest.mark.slow
def test_codefends_errors_come_through(codefend, upstream):
    with pytest.raises(LabError, match=r"answered 4\d\d: "):
        codefend.ask(PNG, "x" * 5000, max_tokens=12)
    upstream.status = 500
    with pytest.raises(LabError, match="answered 502"):
        codefend.ask(PNG, "what is it?", max_tokens=12)
