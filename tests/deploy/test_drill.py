"""A real Prometheus, our rules, and a service in trouble: every alert fires, and clears again."""

import base64
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import httpx
import numpy as np
import pytest

from codefend.service.policy import Mode, OnPurifyFailure
from codefend.service.sealing import make_key
from codefend.service.settings import MEBIBYTE
from tests.deploy.observability import (
    PROMETHEUS,
    SECONDS_A_MINUTE,
    alerts,
    live_prometheus,
    panels,
)
from tests.faults.served import Weights
from tests.service.fake_engine import FAIL, KILL, marked
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import encode, picture
from tests.service.running import make_settings, run_service, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus"),
]

DRILL_TIMEOUT_S = 120
TROUBLES = {
    "purifier": {
        "CodefendImagesBypassed",
        "CodefendAttackSuspected",
        "CodefendPurificationFailing",
        "CodefendProcessesRestarting",
        "CodefendReloadFailed",
        "CodefendQuarantineFull",
    },
    "model": {"CodefendNotEnforcing", "CodefendUpstreamErrors", "CodefendUpstreamDown"},
    "load": {"CodefendErrors", "CodefendOverloaded", "CodefendOutOfMemory", "CodefendLate"},
    "state": {"CodefendNotReady", "CodefendDown"},
}


def test_every_alert_has_its_drill():
    drilled = [name for names in TROUBLES.values() for name in names]
    assert sorted(drilled) == sorted(rule["alert"] for rule in alerts())


class Drill:
    """A service that is watched, what stands behind it, and a way to trouble both."""

    def __init__(self, service, upstream, weights, prometheus):
        self.service, self.upstream, self.weights = service, upstream, weights
        self.prometheus = prometheus
        self.fired = set()

    def ask(self, pixels=None, timeout_s=60):
        """One question about one picture; nobody looks at the answer."""
        pixels = picture() if pixels is None else pixels
        form = {"files": {"file": ("x", encode(pixels))}, "data": {"question": "?"}}
        with suppress(httpx.TransportError):
            self.service.client.post("/v1/vqa", **form, timeout=timeout_s)

    def purify(self, pixels=None):
        """One picture, which no model is asked about."""
        pixels = picture() if pixels is None else pixels
        headers = {"content-type": "image/png"}
        self.service.client.post("/v1/purify", content=encode(pixels), headers=headers)

    def until_firing(self, names, trouble):
        """Troubles the service again and again, until every alert has fired."""
        missing, ends_s = set(names), time.monotonic() + DRILL_TIMEOUT_S
        while missing:
            assert time.monotonic() < ends_s, f"not fired: {missing}"
            trouble()
            missing -= self.prometheus.firing()
        self.fired |= set(names)

    def purifier(self):
        attacked = picture().copy()
        attacked[-1, -1] = 255  # which is what the engine of tests suspects
        self.weights.write("broken", broken=True)
        self.weights.flip("broken")

        def trouble():
            for _ in range(4):
                self.ask(attacked)
            for colour in (FAIL, FAIL, KILL):
                self.ask(marked(picture(), colour))
            self.service.reload()

        with self.service.changed(on_purify_failure=OnPurifyFailure.PASS):
            self.until_firing(TROUBLES["purifier"], trouble)
        self.weights.flip("v1")

    def model(self):
        body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "chat_template": "x"}

        # A gateway asks without the model: its pictures pass while the breaker is open.
        images = {"images": [base64.b64encode(encode(picture())).decode()]}

        def trouble():
            self.service.client.post("/v1/chat/completions", json=body)
            self.service.client.get("/v1/models")
            self.ask()
            self.service.client.post("/v1/guardrail", json=images)
            time.sleep(0.1)

        self.upstream.status = 500
        with self.service.changed(mode=Mode.SHADOW):
            self.until_firing(TROUBLES["model"], trouble)
        self.upstream.status = 200

    def load(self):
        released = threading.Event()
        runtime = self.service.runtime
        num_bytes = runtime.pipeline.settings.max_memory_bytes

        def hold(handler, document):
            released.wait(DRILL_TIMEOUT_S)
            with suppress(OSError):  # whoever asked has had its answer
                handler.answer(document, "late")

        def trouble():
            with ThreadPoolExecutor(8) as threads:  # twice as many as are let in
                list(threads.map(lambda _: self.purify(), range(8)))
            self.upstream.reply = hold
            with self.service.changed(deadline_s=0.5):
                self.ask()
            self.upstream.reply = None
            self.purify(marked(picture(), FAIL))
            runtime.memory.note("drill", num_bytes)
            self.purify()
            runtime.memory.give("drill", num_bytes)

        self.weights.write("slow", suspects=True, seconds=0.3)
        self.weights.flip("slow")
        self.service.reload()
        try:
            self.until_firing(TROUBLES["load"], trouble)
        finally:
            released.set()
            self.upstream.reply = None
            self.weights.flip("v1")
            self.service.reload()


def knock(address):
    """A connection that is no request."""
    with socket.create_connection(address) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        connection.recv(100)


@pytest.fixture(scope="module")
def drill(tmp_path_factory):
    weights = Weights(tmp_path_factory.mktemp("weights"))
    weights.write("v1", suspects=True)
    weights.flip("v1")
    vault = tmp_path_factory.mktemp("quarantine")
    (vault / "old.sealed").write_bytes(bytes(MEBIBYTE))  # there is no room for more
    settings = {
        "quarantine": "flagged",
        "quarantine_directory": vault,
        "quarantine_key": make_key(vault / "private.key"),
        "quarantine_max_bytes": MEBIBYTE,
        "purifier": str(weights.link),
        "detector": "none",
        "prompts": weights.prompts,
        "max_requests": 4,
        "upstream_breaker_failures": 12,
        "upstream_breaker_pause_s": 4,
        "upstream_breaker_max_pause_s": 4,
        "upstream_breaker_trials": 1,
    }
    with ExitStack() as stack:
        upstream = stack.enter_context(run_upstream())
        service = stack.enter_context(run_service(make_settings(upstream.url, **settings)))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        targets = (service.url.removeprefix("http://"), f"127.0.0.1:{port}")
        prometheus = stack.enter_context(
            live_prometheus(tmp_path_factory.mktemp("prometheus"), *targets)
        )
        found = Drill(service, upstream, weights, prometheus)
        found.other = (make_settings(upstream.url), port)
        yield found


def test_an_instance_that_drains_or_is_gone_is_told(drill):
    settings, port = drill.other
    drill.until_firing({"CodefendDown"}, lambda: time.sleep(0.2))
    with run_service(settings, port=port) as other:
        other.runtime.limiter.is_draining = True
        drill.until_firing({"CodefendNotReady"}, lambda: time.sleep(0.2))
        wait_until(lambda: "CodefendDown" not in drill.prometheus.firing(), DRILL_TIMEOUT_S)
        other.runtime.limiter.is_draining = False
        wait_until(lambda: "CodefendNotReady" not in drill.prometheus.firing(), DRILL_TIMEOUT_S)


@pytest.mark.parametrize("trouble", ["purifier", "model", "load"])
def test_trouble_is_told(drill, trouble):
    assert not TROUBLES[trouble] & drill.prometheus.firing()
    getattr(drill, trouble)()
    assert TROUBLES[trouble] <= drill.fired


def test_every_panel_shows_something_under_load(drill):
    knock(drill.service.address)
    ends_s = time.monotonic() + 4
    while time.monotonic() < ends_s:
        drill.ask()
    span = f"{120 * SECONDS_A_MINUTE}s"
    empty = {}
    for title, expressions in panels().items():
        for expression in expressions:
            asked = expression.replace("$__rate_interval", span).replace("$__range", span)
            found = drill.prometheus.query(asked.replace("$instance", ".*"))
            values = [float(series["value"][1]) for series in found]
            if not values or not np.isfinite(values).any():
                empty[title] = asked
    assert empty == {}


def test_when_the_trouble_is_over_every_alert_clears(drill):
    def is_clear():
        drill.ask()  # what counts shares has to have something to count
        return drill.prometheus.firing() <= {"CodefendDown"}  # the other instance has ended

    wait_until(is_clear, DRILL_TIMEOUT_S)
    assert drill.fired >= {name for key in ("purifier", "model", "load") for name in TROUBLES[key]}
