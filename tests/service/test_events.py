"""What requests leave in the log is what the schema of events says, and what a rollout reads."""

import base64
import contextlib
import io
import json
import logging
from datetime import UTC, datetime

import jsonschema_rs
import numpy as np
import pytest
from typer.testing import CliRunner

from codefend.service.cli import app
from codefend.service.logs import EVENT_VERSION, configure_logs
from codefend.service.rollout import RolloutReport, read_events
from tests.documentation import ROOT
from tests.service.fake_engine import FAIL, marked
from tests.service.pictures import encode, picture, png
from tests.service.running import make_settings, run_service

SCHEMA = json.loads((ROOT / "deploy/observability/events.schema.json").read_text())
VALIDATOR = jsonschema_rs.validator_for(SCHEMA, validate_formats=True)
REQUEST = {
    "event": 1, "time": "2026-11-26T10:00:00Z", "level": "info", "logger": "codefend.access",
    "message": "request", "request_id": "r", "caller": "c", "policy": "service", "mode": "shadow",
    "endpoint": "/v1/vqa", "outcome": "ok", "timings_ms": {"total": 1.0}, "status": 200,
}  # fmt: skip


def image(number=0, suspicion=0.5, **changes):
    """An image's event, as in shadow mode."""
    facts = {
        "logger": "codefend.audit", "message": "image", "request_id": f"r{number}",
        "sha256": f"{number:064x}", "format": "PNG", "width": 64, "height": 48, "cached": False,
        "suspicion": suspicion, "flagged": suspicion > 0.99, "bypassed": "shadow",
        "verdict": "allow", "timings_ms": {"queue": 1.0, "purify": 9.0, "total": 100.0},
    }  # fmt: skip
    event = REQUEST | facts | changes
    del event["status"]
    return event


@contextlib.contextmanager
def logged():
    """What is logged meanwhile, as it is written."""
    root, written = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    with contextlib.redirect_stderr(written):
        configure_logs("info")
    try:
        yield written
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_the_schema_is_one_and_of_this_version():
    jsonschema_rs.meta.validate(SCHEMA)
    assert SCHEMA["$defs"]["common"]["properties"]["event"]["const"] == EVENT_VERSION
    assert SCHEMA["$id"].endswith(f":{EVENT_VERSION}")
    VALIDATOR.validate(REQUEST)
    VALIDATOR.validate(image())


@pytest.mark.parametrize(
    "spoiled",
    [REQUEST | {"event": 2}, REQUEST | {"prompt": "what is this"}, REQUEST | {"mode": "lax"},
     image(sha256="x"), image(pixels="AAAA"), image(verdict="maybe"), image(suspicion=1.5),
     {name: value for name, value in image().items() if name != "outcome"}],
)  # fmt: skip
def test_what_is_no_event_is_found(spoiled):
    assert not VALIDATOR.is_valid(spoiled)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["enforce", "shadow", "off"])
def test_every_line_of_requests_and_images_is_an_event(upstream, mode):
    settings = make_settings(
        upstream.url,
        mode=mode,
        engine_options={"suspects": True},
        cache_bytes=1 << 20,
        api_keys="first",
    )
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
    chat = {"model": "m", "messages": [{"role": "user", "content": content}]}
    with logged() as log, run_service(settings) as service:
        service.client.headers["authorization"] = "Bearer first"
        post = service.client.post
        attacked = np.full((64, 64, 3), 255, np.uint8)
        for pixels in (picture(), picture(), attacked, marked(picture(), FAIL)):
            form = {"files": {"file": ("x", encode(pixels))}, "data": {"question": "?"}}
            post("/v1/vqa", **form, headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
        post("/v1/purify", content=b"nonsense", headers={"content-type": "image/png"})
        post("/v1/chat/completions", json=chat)
        post("/v1/chat/completions", json=chat | {"chat_template": "x"})
        post("/v1/vqa", headers={"authorization": "Bearer wrong"})
        service.client.get("/v1/models")
        service.client.get("/nowhere")
        service.settle()
    written = [json.loads(line) for line in log.getvalue().splitlines()]
    ours = {"codefend.audit", "codefend.access"}
    events = [event for event in written if event["logger"] in ours]
    assert len(events) >= 10
    assert {event["message"] for event in events} == {"image", "request"}
    for event in events:
        VALIDATOR.validate(event)
    others = [event for event in written if event not in events]
    assert not any("event" in event for event in others)


def test_a_rollout_is_read_from_the_log_and_nothing_else():
    kept = [image(1), REQUEST]
    log = [json.dumps(kept[0]), "guard-1  | " + json.dumps(kept[1]), "{broken", "", "[1]",
           json.dumps({"message": "starting"}), json.dumps(image() | {"event": 2})]  # fmt: skip
    assert read_events(log) == kept
    with pytest.raises(ValueError, match="no image"):
        RolloutReport.of([REQUEST])


def test_a_rollout_says_what_would_have_happened():
    begin = datetime(2026, 11, 26, 10, tzinfo=UTC).timestamp()

    def at(seconds):
        return datetime.fromtimestamp(begin + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    events = [image(n, n / 1000, time=at(n), caller="shop") for n in range(990)]
    events += [image(1000 + n, 0.995, time=at(n), caller="mill") for n in range(2)]
    failed = image(5000)
    for name in ("cached", "suspicion", "flagged"):
        del failed[name]
    events.append(failed)
    events.append(REQUEST | {"fields": {"verdicts": {"closed_field": 1}, "names": ["tools"]}})
    report = RolloutReport.of(events)
    assert (report.num_images, report.num_judged, report.num_flagged) == (993, 992, 2)
    assert (report.num_changed, report.num_failed) == (992, 1)
    assert report.flagged_by_caller == {"mill": 2}
    assert report.refused_fields == {"tools": 1}
    assert report.added_ms[50] == 10.0
    assert report.total_ms[99] == 100.0
    assert report.busiest_images_per_s == pytest.approx(63 / 60)  # the first minute has four more
    low, high = report.flagged_interval
    assert low < 2 / 992 < high
    judged = [event["suspicion"] for event in events if "suspicion" in event]
    assert report.threshold == pytest.approx(np.quantile(judged, 0.99))


@pytest.mark.parametrize(
    ("suspicions", "words"),
    [
        (np.linspace(0, 1, 500, endpoint=False), "CODEFEND_MODE=enforce"),
        (np.linspace(0, 0.5, 2000), "--log LOG"),
        ([0.5] * 900 + [1.0] * 100, "--photos DIR"),
        ([0.5] * 50, "100 or more"),
    ],
)
def test_a_rollout_says_what_to_do_about_the_threshold(suspicions, words):
    report = RolloutReport.of([image(n, float(s)) for n, s in enumerate(suspicions)])
    assert words in report.to_markdown()


def test_the_command_prints_the_report(tmp_path):
    log = tmp_path / "guard.log"
    log.write_text("\n".join(json.dumps(image(n, n / 200)) for n in range(200)))
    shown = CliRunner().invoke(app, ["report", str(log)])
    assert shown.exit_code == 0
    assert "would have been changed | 200 images" in shown.output
    for_programs = CliRunner().invoke(app, ["report", "--json", str(log)])
    assert json.loads(for_programs.output)["num_images"] == 200
    log.write_text("nothing")
    assert CliRunner().invoke(app, ["report", str(log)]).exit_code == 2
