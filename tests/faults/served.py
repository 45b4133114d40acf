"""`codefend serve` in a process of its own, with the engine of tests."""

import contextlib
import json
import os
import socket
import subprocess
import sys

import httpx

from codefend.models.prompts.templates import SHIPPED_TEMPLATES
from tests.service.fake_engine import IMPORT_PATH
from tests.service.running import READY_TIMEOUT_S, wait_until, wait_until_ready

RELOADED = 'codefend_reloads_total{outcome="ok"} 1.0'


class Weights:
    """Directories of weights, a link to one of them, and a file of prompts."""

    def __init__(self, root):
        self.root = root
        self.link = root / "current"
        self.prompts = root / "prompts.json"

    def write(self, name, **options):
        (self.root / name).mkdir(exist_ok=True)
        unfinished = self.root / name / "engine.json.new"
        unfinished.write_text(json.dumps(options))
        unfinished.replace(self.root / name / "engine.json")

    def flip(self, name, version="1"):
        new = self.root / "new-link"
        new.symlink_to(name)
        new.replace(self.link)
        templates = json.loads(SHIPPED_TEMPLATES.read_text())
        for template in templates.values():
            template["version"] = version
        self.prompts.write_text(json.dumps(templates))


@contextlib.contextmanager
def served(upstream, weights, **options):
    """`codefend serve` in a process of its own, ready, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = os.environ | {
        "CODEFEND_PORT": str(port),
        "CODEFEND_ENGINE": IMPORT_PATH,
        "CODEFEND_PURIFIER": str(weights.link),
        "CODEFEND_PROMPTS": str(weights.prompts),
        "CODEFEND_UPSTREAM_URL": upstream.url,
        "CODEFEND_DECODE_WORKERS": "1",
        "CODEFEND_ENCODE_WORKERS": "1",
    }
    command = [sys.executable, "-m", "codefend.service.cli", "serve"]
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, **options) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            wait_until_ready(client, process)
            yield process, client
        finally:
            process.kill()


def wait_for_metric(client, line, timeout_s=READY_TIMEOUT_S):
    wait_until(lambda: line in client.get("/metrics").text, timeout_s)
