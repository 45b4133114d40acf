"""What is said at the start: the settings that hold, names that are none, and when it is ready."""

import json
import re
from pathlib import Path

import pytest

from codefend.service.settings import Settings
from codefend.service.startup import (
    describe_start,
    find_unknown_variables,
    find_uses_of_torch,
)
from tests.service.running import make_settings, run_service

ROOT = Path(__file__).parents[2]
KEYS = {"api_keys": "first-secret,second-secret"}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CODEFEND_UPSTREAM_URI", "CODEFEND_UPSTREAM_URL"),
        ("CODEFEND_API_KEY", "CODEFEND_API_KEYS"),
        ("CODEFEND_DEADLINE", "CODEFEND_DEADLINE_S"),
        ("codefend_mod", "CODEFEND_MODE"),
        ("CODEFEND_QQQQQQQQQQ", None),
    ],
)
def test_a_name_that_is_no_setting_is_found_with_the_nearest(name, nearest):
    assert find_unknown_variables([name, "PATH", "codefend_mode"]) == {name: nearest}


@pytest.mark.parametrize(
    "name",
    [
        *(f"CODEFEND_{name.upper()}" for name in Settings.model_fields),
        "CODEFEND_LAB_SERVICE_KEY", "CODEFEND_GUARD_URL",
        # What Kubernetes sets in every pod beside a service that is called codefend.
        "CODEFEND_SERVICE_HOST", "CODEFEND_SERVICE_PORT_HTTP", "CODEFEND_PORT_8000_TCP_ADDR",
        "CODEFEND_METRICS_SERVICE_PORT", "CODEFEND_METRICS_PORT_9000_TCP",
    ],
)  # fmt: skip
def test_what_is_known_is_not_warned_of(name):
    assert find_unknown_variables([name]) == {}


def test_what_the_recipes_and_rooms_name_is_known():
    files = [ROOT / "docker-compose.yml", ROOT / "Dockerfile"]
    for folder in ("deploy", "lab", "benchmarks"):
        files += [file for file in (ROOT / folder).rglob("*") if file.is_file()]
    named = {
        name
        for file in files
        for name in re.findall(
            r"CODEFEND_[A-Z0-9_]*[A-Z0-9]\b(?!_)", file.read_text("utf-8", "ignore")
        )
    }
    assert "CODEFEND_TARGET" in named
    assert find_unknown_variables(named) == {}


def test_the_start_says_what_is_open_and_no_secret():
    settings = make_settings(
        "https://name:pass-word@models.example:8443/v1?api-key=query-secret",
        upstream_key="upstream-secret",
        mode="shadow",
        allowed_fields="chat_template",
        upstream_reads_text_images="markdown",
        cors_origins="https://app.example",
        otlp_endpoint="http://who:pass-word@collector:4318/v1/traces",
        **KEYS,
    )
    told = describe_start(settings, 2)
    assert told["upstream"] == "https://models.example:8443/v1"
    assert told["traces"] == "http://collector:4318/v1/traces"
    assert (told["mode"], told["keys"], told["version"]) == ("shadow", 2, told["version"])
    assert told["allowed_fields"] == ["chat_template"]
    assert told["upstream_reads_text_images"] == ["markdown"]
    assert told["cors_origins"] == ["https://app.example"]
    assert not re.search(r"secret|pass-word|name:", json.dumps(told))
    assert "everybody on this machine" in describe_start(make_settings(), 0)["keys"]
    assert describe_start(make_settings(mode="off"), 0)["purifier"] is None
    embedded = describe_start(make_settings(None), 0)
    assert embedded["embedded_model"].endswith("mllm")
    assert "upstream" not in embedded


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["enforce", "off"])
def test_one_line_at_the_start_and_one_when_it_is_ready(session_upstream, caplog, mode):
    caplog.set_level("INFO")
    with run_service(make_settings(session_upstream.url, mode=mode)) as service:
        service.wait_until(lambda: "ready" in caplog.messages)
    (started,) = (record for record in caplog.records if record.message == "starting")
    assert started.fields["mode"] == mode
    (ready,) = (record for record in caplog.records if record.message == "ready")
    assert ready.fields["seconds"] > 0
    assert ready.fields["purifier"] == (None if mode == "off" else "fake 1")


UPSTREAM = {"upstream_url": "http://models:8000/v1"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, ["CODEFEND_UPSTREAM_URL"]),
        ({"backend": "eager"}, ["CODEFEND_UPSTREAM_URL", "CODEFEND_BACKEND=eager"]),
        (UPSTREAM, []),
        (UPSTREAM | {"backend": "eager"}, ["CODEFEND_BACKEND=eager"]),
        (UPSTREAM | {"backend": "eager", "mode": "off"}, []),
        (UPSTREAM | {"purifier_adapters": "mine"}, ["CODEFEND_PURIFIER_ADAPTERS"]),
    ],
)
def test_what_needs_torch_is_known(changes, named):
    uses = find_uses_of_torch(Settings(**changes))
    assert [name for name, use in zip(named, uses, strict=True) if name not in use] == []
