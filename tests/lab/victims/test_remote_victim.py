"""Victims behind HTTP, against real servers: a scripted one, and CoDefend itself."""

import base64
import io
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.victims.asking import ask_all
from codefend.lab.victims.codefend_service import CodefendService
from codefend.lab.victims.patient_client import PatientClient, RemoteError, key_from_environment
from codefend.lab.victims.remote import RemoteVictim
from codefend.lab.victims.retries import Retries
from codefend.models.codec import encode_image
from tests.service.fake_upstream import run_upstream
from tests.service.running import make_settings, run_service

NOW = datetime(2030, 1, 1, tzinfo=UTC)
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


def says(text, status=200, **headers):
    message = {"role": "assistant", "content": text}
    return status, headers, json.dumps({"choices": [{"message": message}]}).encode()


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
    yield handler, f"http://127.0.0.1:{running.server_port}/v1"
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
    retries = Retries(max_attempts=3, first_wait_s=0.5, longest_wait_s=10.0)
    options = {"retries": retries, "sleep": waits.append, "timeout_s": 5.0}
    with PatientClient(server[1], key=None, **options) as opened:
        yield opened


def test_asks_as_openai_clients_do(client, script):
    script.answers = [says("  a red car \n")]
    assert RemoteVictim(client, "some-model", max_tokens=9).ask(PNG, "what is it?") == "a red car"
    ((path, headers, body),) = script.seen
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("some-model", 9, 0.0)
    image, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "what is it?"}
    header, _, data = image["image_url"]["url"].partition(",")
    assert header == "data:image/png;base64"
    assert base64.b64decode(data) == PNG


def test_the_key_comes_from_the_environment_and_is_never_shown(server, script, monkeypatch):
    monkeypatch.setenv("CODEFEND_LAB_KEY", f" {SECRET} ")
    monkeypatch.setenv("EMPTY_KEY", " ")
    key = key_from_environment("CODEFEND_LAB_KEY")
    assert key_from_environment("EMPTY_KEY") is None
    assert key_from_environment("UNSET_KEY") is None
    script.answers = [fails(401, "wrong key")]
    with PatientClient(server[1], key=key) as client:
        with pytest.raises(RemoteError, match="401: wrong key") as refused:
            RemoteVictim(client, "m").ask(PNG, "what?")
        assert SECRET not in repr(client) + str(vars(client)) + str(refused.value)
    assert script.seen[0][1]["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_asks_again_with_growing_waits(client, script, waits, status):
    script.answers = [fails(status), fails(status), says("yes")]
    assert RemoteVictim(client, "m").ask(PNG, "really?") == "yes"
    assert waits == [0.5, 1.0]


def test_waits_as_long_as_it_is_told(client, script, waits):
    script.answers = [fails(429, retry_after="7"), fails(503, retry_after="0"), says("yes")]
    assert RemoteVictim(client, "m").ask(PNG, "really?") == "yes"
    assert waits == [7.0, 0.0]


def test_gives_up_rather_than_asking_too_early(client, script, waits):
    script.answers = [fails(429, "come back later", retry_after="3600")]
    with pytest.raises(RemoteError, match="come back later") as error:
        RemoteVictim(client, "m").ask(PNG, "really?")
    assert error.value.status == 429
    assert len(script.seen) == 1
    assert not waits


def test_gives_up_after_the_last_attempt(client, script, waits):
    script.answers = [fails(503, "overloaded")]
    with pytest.raises(RemoteError, match="status 503: overloaded"):
        RemoteVictim(client, "m").ask(PNG, "really?")
    assert len(script.seen) == 3
    assert len(waits) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 302])
def test_a_refusal_is_not_repeated(client, script, waits, status):
    script.answers = [fails(status), says("never asked for")]
    with pytest.raises(RemoteError) as error:
        RemoteVictim(client, "m").ask(PNG, "really?")
    assert error.value.status == status
    assert isinstance(error.value, LabError)
    assert not waits


def test_a_broken_connection_is_tried_again(client, script, waits):
    script.answers = [(None, {}, b""), says("yes")]
    assert RemoteVictim(client, "m").ask(PNG, "really?") == "yes"
    assert waits == [0.5]


def test_a_silent_or_absent_server_is_an_error(server, script):
    def silent(_):
        time.sleep(0.5)
        return says("too late")

    script.answers = [silent]
    once = Retries(max_attempts=1)
    with PatientClient(server[1], timeout_s=0.1, retries=once) as client:
        with pytest.raises(RemoteError, match="ReadTimeout") as error:
            RemoteVictim(client, "m").ask(PNG, "really?")
        assert error.value.status is None
    with (
        PatientClient("http://127.0.0.1:9/v1", retries=once) as client,
        pytest.raises(RemoteError, match="ConnectError"),
    ):
        RemoteVictim(client, "m").ask(PNG, "really?")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"choices": []}', "no answer in it"),
        (b'{"choices": [{"message": {"content": [1]}}]}', "not text"),
    ],
)
def test_nonsense_is_an_error(client, script, content, message):
    script.answers = [(200, {}, content)]
    with pytest.raises(RemoteError, match=message):
        RemoteVictim(client, "m").ask(PNG, "really?")


def test_a_model_that_says_nothing_says_nothing(client, script):
    script.answers = [says(None)]
    assert RemoteVictim(client, "m").ask(PNG, "really?") == ""


def test_refuses_other_formats_and_urls(client):
    with pytest.raises(ValueError, match="PNG"):
        RemoteVictim(client, "m").ask(b"\xff\xd8\xff\xe0", "really?")
    with pytest.raises(ValueError, match="http"):
        PatientClient("ftp://example.org/v1")


def test_many_questions_keep_their_order(client, script):
    def echo(body):
        text = body["messages"][0]["content"][1]["text"]
        time.sleep(0.02 * (5 - int(text)))
        return says(f"said {text}")

    script.answers = [echo]
    answers = ask_all(RemoteVictim(client, "m"), [PNG, PNG], [["1", "2", "3"], ["4"]])
    assert answers == [["said 1", "said 2", "said 3"], ["said 4"]]


def test_the_first_failure_drops_the_questions_not_yet_put(client, script):
    script.answers = [fails(400)]
    with pytest.raises(RemoteError):
        ask_all(RemoteVictim(client, "m"), [PNG], [["why?"] * 200], num_parallel=2)
    assert len(script.seen) < 200


def test_retry_after_may_be_a_date_or_nonsense():
    retries = Retries(first_wait_s=2.0, longest_wait_s=100.0)
    later = format_datetime(NOW + timedelta(seconds=30), usegmt=True)
    earlier = format_datetime(NOW - timedelta(seconds=30), usegmt=True)
    assert retries.wait_s(1, later, NOW) == 30.0
    assert retries.wait_s(1, earlier, NOW) == 0.0
    assert retries.wait_s(1, "soon", NOW) == 2.0
    assert retries.wait_s(1, "-5", NOW) == 2.0
    assert retries.wait_s(2, None, NOW) == 4.0


@given(
    num_failed=st.integers(1, 20),
    retry_after=st.none() | st.text(max_size=30) | st.integers(0, 10**9).map(str),
)
def test_waits_are_never_longer_than_allowed(num_failed, retry_after):
    retries = Retries(max_attempts=8, longest_wait_s=20.0)
    wait_s = retries.wait_s(num_failed, retry_after, NOW)
    assert (wait_s is None) if num_failed >= 8 else (wait_s is None or 0 <= wait_s <= 20.0)


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"first_wait_s": -1.0}])
def test_refuses_a_meaningless_policy(wrong):
    with pytest.raises(ValueError, match="must"):
        Retries(**wrong)


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
    with PatientClient(f"{running.url}/v1", retries=Retries(max_attempts=1)) as client:
        yield CodefendService(client, max_tokens=12)


def test_codefend_answers_and_shows_the_purified_image(codefend, upstream):
    """Its engine in tests inverts images: what comes back, and what the model saw, is known."""
    reply = codefend.vqa(PNG, "what is it?")
    assert reply.text == "a red car"
    assert np.array_equal(np.array(Image.open(io.BytesIO(reply.purified))), 255 - PIXELS)
    assert reply.defense["purifier"]["name"] == "fake"
    assert reply.timings_ms["total"] > 0
    asked = json.loads(upstream.bodies[-1])
    assert asked["max_tokens"] == 12
    assert "what is it?" in json.dumps(asked)
    assert codefend.ask(PNG, "what is it?") == "a red car"


def test_codefend_describes_and_purifies(codefend, upstream):
    assert codefend.caption(PNG).text == "a red car"
    assert codefend.caption(PNG, "in one word").text == "a red car"
    assert "in one word" in upstream.bodies[-1].decode()
    num_asked = len(upstream.bodies)
    reply = codefend.purify(PNG)
    assert reply.text == ""
    assert np.array_equal(np.array(Image.open(io.BytesIO(reply.purified))), 255 - PIXELS)
    assert len(upstream.bodies) == num_asked


def test_codefends_errors_come_through(codefend, upstream):
    with pytest.raises(RemoteError, match=r"vqa: status 4\d\d: ") as error:
        codefend.vqa(PNG, "x" * 5000)
    assert error.value.status in {400, 422}
    upstream.status = 500
    with pytest.raises(RemoteError, match="status 502"):
        codefend.vqa(PNG, "what is it?")


def test_many_questions_to_codefend(codefend):
    assert ask_all(codefend, [PNG], [["what?", "where?"]]) == [["a red car", "a red car"]]


def test_another_server_is_not_taken_for_codefend(client, script):
    script.answers = [says("I am no CoDefend")]
    with pytest.raises(RemoteError, match="not an answer of CoDefend"):
        CodefendService(client).vqa(PNG, "what is it?")
