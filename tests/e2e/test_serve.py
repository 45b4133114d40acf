"""`codefend serve` as a user starts it: real processes, tiny random weights, the embedded model."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from codefend.models.mllm.tiny import tiny_mllm
from codefend.models.purifier.pipeline import PurificationPipeline
from tests.documented import shell_blocks
from tests.service.pictures import png
from tests.service.running import status_of_readiness, wait_until_ready
from tests.service.test_api import as_form
from tests.service.test_chat import image_part, text_part, user

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 400


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    directory = tmp_path_factory.mktemp("weights")
    PurificationPipeline.tiny(0).save_pretrained(directory / "purifier")
    for part in tiny_mllm():
        part.save_pretrained(directory / "mllm")
    return directory


@pytest.fixture(scope="session")
def environment(weights):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return os.environ | {
        "CODEFEND_PORT": str(port),
        "CODEFEND_PURIFIER": str(weights / "purifier"),
        "CODEFEND_MLLM": str(weights / "mllm"),
        "CODEFEND_CPU_THREADS": "1",
        "CODEFEND_DECODE_WORKERS": "1",
        "CODEFEND_ENCODE_WORKERS": "1",
    }


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "service.jsonl"


@pytest.fixture(scope="session")
def terminal():
    """Both ends of what the service takes for a terminal: the reader's, and its own."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture(scope="session")
def process(environment, log, terminal):
    command = [sys.executable, "-m", "codefend.service.cli", "serve"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=terminal[1], stderr=file
        )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest.fixture(scope="session")
def ids():
    """The ids of all requests that an answer to has begun."""
    return set()


@pytest.fixture(scope="session")
def client(process, environment, ids):
    url = f"http://127.0.0.1:{environment['CODEFEND_PORT']}"
    hooks = {"response": [lambda response: ids.add(response.headers["x-request-id"])]}
    with httpx.Client(base_url=url, timeout=START_TIMEOUT_S, event_hooks=hooks) as client:
        wait_until_ready(client, process, START_TIMEOUT_S)
        yield client


def embedded_model_of(process):
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            is_child = f"PPid:\t{process.pid}\n" in status.read_text()
            if is_child and b"\0mllm\0" in (status.parent / "cmdline").read_bytes():
                return int(status.parent.name)
        except OSError:
            continue
    return None


def test_every_endpoint_answers(client):
    purified = client.post("/v1/purify", **as_form(png()))
    assert purified.status_code == 200
    assert purified.json()["defense"]["purifier"]["name"] == "tiny"
    caption = client.post("/v1/caption", **as_form(png(), max_tokens=3))
    answer = client.post("/v1/vqa", **as_form(png(), question="what?", max_tokens=3))
    assert (caption.status_code, answer.status_code) == (200, 200)
    assert isinstance(caption.json()["caption"], str)
    assert answer.json()["usage"]["completion_tokens"] <= 3


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_a_terminal_says_when_it_is_ready_and_a_command_that_works(client, environment, terminal):
    shown = b""
    while b"Ctrl+C" not in shown:
        shown += os.read(terminal[0], 4096)
    text = shown.decode()
    assert f"ready at http://127.0.0.1:{environment['CODEFEND_PORT']} " in text
    (curl,) = re.findall(r"Try it +(curl .*?)\r?\n", text)
    assert run(["bash", "-c", curl]).startswith('"answer":"')


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("block", [block for block in shell_blocks() if block.asks], ids=str)
def test_the_documented_requests_are_answered(block, client, environment, tmp_path):
    (tmp_path / "gallery").symlink_to(ROOT / "gallery")
    code = block.code.replace(":8000/", f":{environment['CODEFEND_PORT']}/")
    shown = run(["bash", "-e", "-c", code], tmp_path)
    assert "error" not in shown
    assert re.search(r'"(answer|caption|verdict)":', shown) or (tmp_path / "purified.webp").exists()


def test_the_python_of_the_readme_runs(client, environment):
    text = (ROOT / "README.md").read_text().replace(":8000/", f":{environment['CODEFEND_PORT']}/")
    (python,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert run([sys.executable, "-c", python]).endswith("\n")


def run(command, folder=ROOT):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_embedded_model_streams(client):
    request = as_form(png(), question="what?", max_tokens=3, stream="true")
    with client.stream("POST", "/v1/vqa", **request) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    assert "purified_image" in json.loads(events[-2])["codefend"]


def test_the_embedded_model_chats_about_several_images(client):
    parts = [image_part(png()), image_part(png(seed=1)), text_part("what?")]
    body = {"messages": [user(*parts)], "max_tokens": 3}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert isinstance(answer["choices"][0]["message"]["content"], str)
    assert len(answer["codefend"]["images"]) == 2
    assert answer["model"] == client.get("/v1/models").json()["data"][0]["id"]
    with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    assert len(json.loads(events[-2])["codefend"]["images"]) == 2
    too_long = client.post("/v1/chat/completions", json={"messages": [user(*parts * 9)]})
    assert too_long.status_code == 400
    assert "tokens long" in too_long.json()["error"]["message"]


def test_the_api_process_holds_no_torch(client, process):
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "libtorch" not in maps


def test_the_socket_of_the_embedded_model_is_private(client, process):
    arguments = Path(f"/proc/{embedded_model_of(process)}/cmdline").read_bytes().split(b"\0")
    path = Path(arguments[arguments.index(b"--socket") + 1].decode())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_embedded_model_that_dies_is_replaced(client, process):
    os.kill(embedded_model_of(process), signal.SIGKILL)
    while status_of_readiness(client) == 200:
        time.sleep(0.05)
    assert client.get("/healthz").status_code == 200
    wait_until_ready(client, process, START_TIMEOUT_S)
    assert client.post("/v1/caption", **as_form(png(), max_tokens=2)).status_code == 200


def outcomes_of(log):
    """What became of each request, by its id, as the service logged it: after the answer."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    entries = [json.loads(line) for line in lines]
    requests = [entry for entry in entries if entry["message"] == "request"]
    return {entry["request_id"]: entry["outcome"] for entry in requests}


class Caller(threading.Thread):
    """Sends one request after another until one is not answered with 200."""

    def __init__(self, client, path, **fields):
        super().__init__()
        self._client = client
        self._path = path
        self._request = as_form(png(300, 300), **fields)
        self.statuses = []
        self.answered = set()
        self.last = None
        self.last_sent_s = 0.0

    def run(self):
        while not self.statuses or self.statuses[-1] == 200:
            self.last_sent_s = time.monotonic()
            try:
                self.last = self._client.post(self._path, **self._request)
            except httpx.TransportError:
                self.last = None
                return
            self.statuses.append(self.last.status_code)
            if self.last.status_code == 200:
                self.answered.add(self.last.headers["x-request-id"])


def test_sigterm_under_load_answers_what_was_accepted_and_ends_with_0(
    client, process, environment, log, ids
):
    model = embedded_model_of(process)
    earlier = ids | set(outcomes_of(log))
    callers = [Caller(client, "/v1/purify") for _ in range(6)]
    callers += [Caller(client, "/v1/vqa", question="what?", max_tokens=3) for _ in range(2)]
    for caller in callers:
        caller.start()
    while not all(caller.statuses for caller in callers):
        time.sleep(0.01)
    signalled_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 0
    for caller in callers:
        caller.join()
    assert not Path(f"/proc/{model}").exists(), "nothing outlives the service"
    for caller in callers:
        if caller.last is None:
            assert caller.last_sent_s > signalled_s, "what was sent before has an answer"
        else:
            assert caller.last.json()["error"]["code"] == "shutting_down"
            assert int(caller.last.headers["retry-after"]) >= 1
    outcomes = {key: value for key, value in outcomes_of(log).items() if key not in earlier}
    assert set(outcomes.values()) <= {"ok", "shutting_down"}
    accepted = {key for key, value in outcomes.items() if value == "ok"}
    answered = set().union(*(caller.answered for caller in callers))
    assert accepted == answered, "all that was accepted was answered"
    assert len(answered) > 8
