"""Every sentence of docs/troubleshooting.md, provoked as a user would."""

import io
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.packed import visible_files
from codefend.service.cli import app
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form
from tests.service.test_chat import text_part, user

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()


def start(monkeypatch, caplog, **variables):
    """What `codefend serve` says with these settings; nothing is served."""
    monkeypatch.setattr("codefend.service.server.serve", lambda _: None)
    monkeypatch.setattr("codefend.service.logs.configure_logs", lambda _: None)
    for name, value in variables.items():
        monkeypatch.setenv(f"CODEFEND_{name}", value)
    shown = CliRunner().invoke(app, ["serve"]).output
    return shown + "\n".join(record.message for record in caplog.records)


def altered_weights(folder):
    """A copy of the detector with its manifest, one byte of it changed."""
    (folder / "detector").mkdir()
    for path in visible_files(WEIGHTS_DIRECTORY / "detector"):
        (folder / "detector" / path.name).write_bytes(path.read_bytes() + b" ")
    listed = json.loads((WEIGHTS_DIRECTORY / "manifest.json").read_text())
    listed["weights"] = [entry for entry in listed["weights"] if entry["name"] == "detector"]
    (folder / "manifest.json").write_text(json.dumps(listed))
    return str(folder / "detector")


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


def starts(taken_port, folder):
    """Settings by what is said of them at the start."""
    return {
        "Address already in use. Set CODEFEND_PORT to a free port": {"PORT": taken_port},
        "refusing to bind 0.0.0.0 without an API key": {"HOST": "0.0.0.0"},
        "CODEFEND_UPSTREAM_URL must begin with http:// or https://": {
            "UPSTREAM_URL": "127.0.0.1:8001"
        },
        "is no directory: name one that holds weights, or a hub id (owner/name)": {
            "PURIFIER": "work/nowhere/purifier"
        },
        "does not have the listed sha256": {"DETECTOR": altered_weights(folder)},
        "CODEFEND_MODE: Input should be 'enforce', 'shadow' or 'off'": {"MODE": "false"},
        "an environment variable is no setting": {"UPSTREAM_URI": "http://127.0.0.1:8001/v1"},
    }


def section(heading):
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def sentences(heading):
    """What is quoted before each explanation of a section."""
    return re.findall(r"^- `([^`]+)`", section(heading), re.MULTILINE)


def test_what_is_said_at_the_start(monkeypatch, caplog, taken_port, tmp_path):
    cases = starts(taken_port, tmp_path)
    assert list(cases) == sentences("It does not start")
    for sentence, variables in cases.items():
        with monkeypatch.context() as patch:
            caplog.clear()
            assert sentence in start(patch, caplog, **variables)


def tiff():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "TIFF")
    return file.getvalue()


def as_chat(url, **fields):
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"json": {"messages": [user(text_part("what?"), part)], **fields}}


REFUSALS = {
    "Send a valid API key: Authorization: Bearer <key>, or x-api-key: <key>.": (
        {"api_keys": ["a-key"]},
        ("/v1/models", {}),
    ),
    "Without an API key the service answers only to localhost, 127.0.0.1 and [::1].": (
        {},
        ("/v1/models", {"headers": {"host": "guard.example"}}),
    ),
    "Remote image URLs are refused. Send the image itself": (
        {},
        ("/v1/chat/completions", as_chat("https://pictures.example/a.png")),
    ),
    "is not a field that is known here": (
        {},
        ("/v1/chat/completions", as_chat("data:image/png;base64,", my_field="x")),
    ),
    "The image is a TIFF. Send a JPEG": ({}, ("/v1/purify", as_form(tiff()))),
    "pixels; at most": ({"max_pixels": 100}, ("/v1/purify", as_form(png()))),
    "The service is at capacity. Retry after the time in Retry-After.": (
        {"max_requests": 1, "engine_options": {"seconds": 1}},
        ("/v1/purify", as_form(png())),
    ),
    "The model behind this service did not give an answer.": (
        {"upstream_url": "http://127.0.0.1:9/v1"},
        ("/v1/vqa", as_form(png(), question="what?")),
    ),
}


@pytest.mark.slow
def test_every_refusal_on_the_page_is_said():
    assert list(REFUSALS) == sentences("It refuses requests")
    with ExitStack() as running, ThreadPoolExecutor(4) as pool:
        usual = running.enter_context(run_service(make_settings()))
        for sentence, (settings, (path, request)) in REFUSALS.items():
            service = usual
            if settings:
                service = running.enter_context(run_service(make_settings(**settings)))
            send = partial(service.client.request, "POST", path, **request)
            if path == "/v1/models":
                send = partial(service.client.get, path, **request)
            # Together, because a service that is full refuses only what comes beside others.
            answers = [future.result() for future in [pool.submit(send) for _ in range(4)]]
            said = [answer.json().get("error", {}).get("message", "") for answer in answers]
            assert any(sentence in message for message in said), (sentence, said)


@pytest.mark.slow
def test_what_readiness_says():
    quoted = re.findall(r"`(\{.status.:.\w+.)", section("It starts, and is not ready"))
    assert [text.split('"')[3] for text in quoted] == ["warming", "misconfigured"]
    with run_service(make_settings(engine_options={"seconds": 2}), wait=False) as service:
        early = service.client.get("/readyz").json()
        refused = service.client.post("/v1/purify", **as_form(png())).json()
    assert early == {"status": "warming"}
    assert refused["error"]["message"] == "The service is not ready yet."
    with run_upstream() as upstream:
        upstream.probe_reply = lambda handler: handler.send(b"{}", "application/json", 401)
        with run_service(make_settings(upstream.url)) as service:
            service.wait_until(lambda: "upstream" in service.client.get("/readyz").json())
            told = service.client.get("/readyz").json()
    assert told["status"] == "misconfigured"
    assert "CODEFEND_UPSTREAM_KEY" in told["upstream"]
