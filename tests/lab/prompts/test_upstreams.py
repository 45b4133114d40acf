"""Upstreams over HTTP and in batches: what is sent, what is counted, and after a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from codefend.lab.cli import app
from codefend.lab.errors import LabError
from codefend.lab.prompts.upstreams import HttpUpstream, LocalUpstream, Meter, Request
from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.generate import generate
from tests.lab.prompts.conftest import answer_of

IMAGE = np.full((8, 8, 3), 7, np.uint8)


def requests():
    return [Request(IMAGE, "silver?", is_caption=True), Request(IMAGE, "what?", is_caption=False)]


def test_local_models_are_asked_as_everywhere_else(victim):
    meter = Meter()
    found = dict(LocalUpstream(victim).answers(requests(), meter))
    caption = generate(victim, [IMAGE], [["silver?"]], max_new_tokens=48)
    answer = generate(victim, [IMAGE], [["what?"]], max_new_tokens=8)
    assert [found[0], found[1]] == [caption[0][0], answer[0][0]]
    assert meter.calls == 2


def over(handler):
    http = httpx.Client(base_url="http://upstream", transport=httpx.MockTransport(handler))
    return HttpUpstream(ServiceClient(http), "some-model", concurrency=2)


def completion(text, usage=True):
    body = {"choices": [{"message": {"content": text}}]}
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 3}
    return body


def test_a_call_is_a_chat_completion_and_is_counted():
    seen = []

    def handler(request):
        seen.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json=completion(" a cat "))

    meter = Meter(price_in=2.0, price_out=10.0)
    found = dict(over(handler).answers(requests(), meter))
    assert found == {0: "a cat", 1: "a cat"}
    assert (meter.calls, meter.tokens_in, meter.tokens_out) == (2, 200, 6)
    assert meter.cost == pytest.approx((200 * 2 + 6 * 10) / 1e6)
    assert "2 calls, 206 tokens, cost 0.0005" in str(meter)
    by_limit = {body["max_tokens"]: body for path, body in seen if path == "/v1/chat/completions"}
    image, text = by_limit[48]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "silver?"}
    assert by_limit[8]["model"] == "some-model"
    assert by_limit[8]["temperature"] == 0


def test_what_is_no_completion_is_said_so():
    with pytest.raises(LabError, match="no chat completion"):
        list(over(lambda _: httpx.Response(200, json={"choices": []})).answers(requests(), Meter()))


class Recorder(ThreadingHTTPServer):
    """An upstream by rule that counts its calls, and says when there were so many."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), RecordedHandler)
        self.calls, self.stop_at, self.reached = 0, None, threading.Event()
        self.lock = threading.Lock()


class RecordedHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.calls += 1
            if self.server.calls == self.server.stop_at:
                self.server.reached.set()
        if self.server.reached.is_set():
            time.sleep(0.05)
        prompt = body["messages"][0]["content"][-1]["text"]
        answer = json.dumps(completion(answer_of(prompt))).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        """Nothing."""


@pytest.fixture
def recorder():
    server = Recorder()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def command(world_file, tiny_weights, recorder):
    words = {
        "--world": world_file,
        "--victim": tiny_weights / "mllm",
        "--purifier": tiny_weights / "purifier",
        "--families": "clean,typographic",
        "--num-train": 2,
        "--num-validation": 2,
        "--num-scenes": 2,
        "--minibatch": 4,
        "--calls": 120,
        "--upstream-url": f"http://127.0.0.1:{recorder.server_port}",
        "--upstream.model": "ruled",
    }

    told = [str(word) for pair in words.items() for word in pair]
    return lambda out: ["prompt", "--out", str(out), *told]


def run(command):
    """What a whole run says."""
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def announced(said):
    line = next(line for line in said.splitlines() if line.startswith("at most "))
    return int(line.split()[2].replace(",", ""))


@pytest.mark.slow
def test_killed_at_half_and_run_again_it_ends_as_if_nothing_had_been(command, recorder, tmp_path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    said = run(command(whole))
    needed = recorder.calls
    assert needed <= announced(said)

    recorder.calls, recorder.stop_at = 0, needed // 2
    process = subprocess.Popen(
        [sys.executable, "-m", "codefend.lab.cli", *command(halved)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert recorder.reached.wait(300)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (halved / "report.json").exists()
    recorder.stop_at = None
    recorder.reached.clear()
    said = run(command(halved))
    in_flight = 4  # answered, but not yet written down
    assert needed <= recorder.calls <= needed + in_flight
    assert recorder.calls <= announced(said)
    for name in ("report.md", "templates.json"):
        one, other = ((folder / name).read_text() for folder in (whole, halved))
        assert one.replace(str(whole), "") == other.replace(str(halved), "")
    texts, again = (
        json.loads((folder / "report.json").read_text())["meta"]["texts"]
        for folder in (whole, halved)
    )
    assert texts == again
