"""Starts the service in a process of its own, as a user does, with its log in a file."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

START_TIMEOUT_S = 300
QUIET_S = 0.08
LINE_TIMEOUT_S = 5
# Before the packages moved below one name they were found at the top.
PACKAGE = "codefend.service" if (Path(__file__).parents[2] / "codefend").exists() else "service"
DEFAULTS = {
    "ENGINE": "tests.service.fake_engine:load_engine",
    "PURIFIER": json.dumps({"suspects": True}),
    "DETECTOR": "none",
    "DEVICES": "cpu",
    "DECODE_WORKERS": "1",
    "ENCODE_WORKERS": "1",
    "CPU_THREADS": "1",
    "CACHE_BYTES": "0",
    "MODELS_LIFETIME_S": "0",
    "UPSTREAM_BREAKER_FAILURES": "0",
    # A busy machine may take its time: no limit that is not itself under test.
    "DEADLINE_S": "120",
    "BODY_TIMEOUT_S": "120",
    "DECODE_TIMEOUT_S": "120",
    "WORKER_SILENCE_S": "60",
    "BATCH_TIMEOUT_FLOOR_S": "60",
}


class Service:
    """A running service: its address, a client, and what it has logged since it was last asked."""

    def __init__(self, process, port, log, client):
        self.process = process
        self.address = ("127.0.0.1", port)
        self.client = client
        self._log = log
        self._num_read = 0

    def take_lines(self, request_id=None):
        """New lines of the log, once it is quiet and holds that request's."""
        ends_s = time.monotonic() + LINE_TIMEOUT_S
        size, quiet_since_s = -1, time.monotonic()
        while time.monotonic() < ends_s:
            text = self._log.read_text()[self._num_read :]
            if len(text) != size:
                size, quiet_since_s = len(text), time.monotonic()
            is_quiet = time.monotonic() - quiet_since_s > QUIET_S
            if is_quiet and (request_id is None or request_id in text):
                break
            time.sleep(0.01)
        self._num_read += len(text)
        return text.splitlines()

    def wait_until_ready(self):
        """Waits for 200 of /readyz."""
        ends_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < ends_s:
            assert self.process.poll() is None, self._log.read_text()
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(self._log.read_text())


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def run_service(settings, folder, *, command=("-m", f"{PACKAGE}.cli", "serve")):
    """Runs it with these settings, by their names without the prefix.

    Args:
        settings: Value by name.
        folder: Where its log is written.
        command: What the interpreter runs.
    """
    port, log = free_port(), Path(folder) / "service.jsonl"
    inherited = {name: value for name, value in os.environ.items() if "CODEFEND_" not in name}
    given = {f"CODEFEND_{name}": str(value) for name, value in (DEFAULTS | settings).items()}
    environment = inherited | given | {"CODEFEND_PORT": str(port), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *command], env=environment, stderr=file)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            service = Service(process, port, log, client)
            service.wait_until_ready()
            yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
