"""A service that ends, however it ends, leaves no process behind and waits for none."""

import asyncio
import fcntl
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.family import find_family
from codefend.service.app import create_app
from codefend.service.server import FAILURE_EXIT_CODE
from tests.faults.served import RELOADED, served, wait_for_metric
from tests.service.fake_engine import HANG_ONCE, marked
from tests.service.pictures import encode, picture
from tests.service.running import make_settings, run_service, wait_until, wait_until_ready
from tests.service.test_api import as_form


@pytest.fixture
def children():
    """The processes that were started since."""
    before = set(multiprocessing.active_children())
    return lambda: [
        child.name for child in multiprocessing.active_children() if child not in before
    ]


class Untold(Exception):
    pass


async def fail():
    raise Untold


def test_a_part_that_does_not_stop_keeps_none_of_the_others(upstream, children):
    with run_service(make_settings(upstream.url)) as service:
        assert len(children()) == 3
        service.runtime.reloader.stop = fail
        service.runtime._upstream.close = fail
    assert children() == []


def test_a_part_that_does_not_start_ends_the_others(upstream, children, monkeypatch):
    monkeypatch.setattr("codefend.service.encode.stage.EncodeStage.start", lambda *_: fail())
    app = create_app(make_settings(upstream.url))

    async def live():
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(Untold):
        asyncio.run(live())
    assert children() == []


def test_a_supervisor_that_fails_is_said_by_the_probe_of_life(upstream):
    with run_service(make_settings(upstream.url)) as service:
        assert service.client.get("/healthz").status_code == 200
        service.runtime.supervision._on_failure("supervisor of something")
        assert service.client.get("/healthz").status_code == 503


SERVE_WITH_A_FAULT = """
from codefend.service.purify.pool import RemoteWorker
from codefend.service.server import FAILURE_EXIT_CODE, serve
from tests.service.running import make_settings

async def fail(self):
    raise ValueError("a fault of ours")

RemoteWorker.clear_away = fail
if __name__ == "__main__":
    serve(make_settings(port={port}, drain_timeout_s=5))
"""


def test_a_supervisor_that_fails_ends_the_service_visibly(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = tmp_path / "serve_with_a_fault.py"
    program.write_text(SERVE_WITH_A_FAULT.format(port=port))
    command = [sys.executable, str(program)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        wait_until_ready(client, process)
        for child in find_family(process.pid) - {process.pid}:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)  # the worker's is one of them
        assert process.wait(60) == FAILURE_EXIT_CODE
        assert "supervisor of purify-1-0 has failed" in process.stderr.read()


def test_the_end_of_its_terminal_ends_it(upstream, weights):
    ours, theirs = os.openpty()
    options = {
        "stdin": theirs,
        "start_new_session": True,
        "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    }
    with served(upstream, weights, **options) as (process, client):
        process.send_signal(signal.SIGHUP)  # the terminal is there: a reload
        wait_for_metric(client, RELOADED)
        os.close(theirs)
        os.close(ours)
        assert process.wait(60) == 0


def test_a_second_signal_waits_for_nobody(upstream, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("CODEFEND_BATCH_TIMEOUT_S", "600")
    monkeypatch.setenv("CODEFEND_BATCH_TIMEOUT_FLOOR_S", "600")
    weights.write("hangs", mark=1, flag=str(tmp_path / "once"))
    weights.flip("hangs")
    image = as_form(encode(marked(picture(), HANG_ONCE)))
    with served(upstream, weights) as (process, client), ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.post, "/v1/purify", **image)
        wait_until((tmp_path / "once").exists)
        process.terminate()
        wait_until(lambda: client.get("/readyz").status_code == 503)
        process.terminate()
        assert process.wait(60) == 0
        assert asked.exception() or asked.result().is_server_error
