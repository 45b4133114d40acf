"""The model is reached through the guard alone: shown with packets, between hosts of a test's own.

Twice: with one network for the clients and one for the model, as Docker Compose lays them; and on
one flat network with packet filters that say what the chart's network policies say.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import yaml

from tests.deploy.chart import MANIFESTS, ROOT
from tests.deploy.hosts import can_make_hosts, hosts_on
from tests.deploy.test_chart import documents, pods_of, reaches
from tests.service.fake_engine import IMPORT_PATH
from tests.service.pictures import png

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_hosts(), reason="needs root, to make network namespaces"),
]

PORT = 8000
KEY = "a-key"
# Says who asks it, and whether it sees the pixels that were sent to the guard.
MODEL = """
import base64, json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Model(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "m", "object": "model"}]})
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        saw = "original" if sys.argv[1] in body else "purified" if "data:image" in body else "none"
        text = f"{saw} from {self.client_address[0]}"
        message = {"role": "assistant", "content": text}
        self.answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    def answer(self, document):
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_):
        pass

ThreadingHTTPServer(("0.0.0.0", 8000), Model).serve_forever()
"""
ASK = """
import json, sys, urllib.request as r
url, key, body = sys.argv[1:]
headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
asked = r.Request(url + "/v1/chat/completions", body.encode(), headers)
print(json.load(r.urlopen(asked, timeout=2))["choices"][0]["message"]["content"])
"""


def chat():
    """A question about a picture, and a part of its file as it stands in the question."""
    text = base64.b64encode(png(64, 64)).decode()
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}},
    ]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}), text[:400]


def ask(hosts, sender, address):
    """What a host is answered by an address, or None if it does not come through."""
    body, _ = chat()
    asked = hosts.run(sender, sys.executable, "-c", ASK, f"http://{address}:{PORT}", KEY, body)
    assert asked.returncode == 0 or "timed out" in asked.stderr or "unreachable" in asked.stderr, (
        asked.stderr
    )
    return asked.stdout.strip() or None


@contextmanager
def serving(hosts, model, model_address, guard="guard"):
    """A model and a guard before it, each on a host of its own."""
    _, mark = chat()
    settings = {
        "CODEFEND_ENGINE": IMPORT_PATH,
        "CODEFEND_PURIFIER": "{}",
        "CODEFEND_DETECTOR": "none",
        "CODEFEND_DEVICES": "cpu",
        "CODEFEND_HOST": "0.0.0.0",
        "CODEFEND_PORT": str(PORT),
        "CODEFEND_API_KEYS": KEY,
        "CODEFEND_UPSTREAM_URL": f"http://{model_address}:{PORT}/v1",
    }
    commands = [
        hosts.command(model, sys.executable, "-c", MODEL, mark),
        hosts.command(guard, sys.executable, "-m", "codefend.service.cli", "serve"),
    ]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        ready = "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=1)"
        url = f"http://127.0.0.1:{PORT}/readyz"
        ends_s = time.monotonic() + 120
        while hosts.run(guard, sys.executable, "-c", ready, url).returncode:
            assert time.monotonic() < ends_s, "the guard is not ready"
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def test_beside_docker_compose_networks():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    on = {name: {*services[name]["networks"]} for name in ("guard", "vllm", "grafana")}
    on["client"] = {"front"}
    networks = {
        network: [host for host in on if network in on[host]]
        for network in sorted({network for networks in on.values() for network in networks})
    }
    with hosts_on(networks) as hosts:
        model = hosts.address("vllm", "back")
        with serving(hosts, "vllm", model):
            through = ask(hosts, "client", hosts.address("guard", "front"))
            assert through == f"purified from {hosts.address('guard', 'back')}"
            # Straight to it, and as one who knows that the guard is on its network, too.
            assert ask(hosts, "client", model) is None
            for host in ("client", "grafana"):
                way = hosts.address("guard", "front")
                assert hosts.run(host, "ip", "route", "add", model, "via", way).returncode == 0
                assert ask(hosts, host, model) is None
            # From where the guard is it answers, and says so if it is sent what was not purified.
            assert ask(hosts, "guard", model) == f"original from {hosts.address('guard', 'back')}"


def filter_of(manifests, pods, host, addresses):
    """Packet filters for what the policies let in to a pod, as its node would set them."""
    rules = [
        f"ip saddr {addresses[other]} tcp dport {PORT} accept"
        for other in pods
        if other in addresses and reaches(manifests, pods[other], pods[host], PORT, "http")
    ]
    return "\n".join(
        [
            "table inet policies {",
            "chain input {",
            "type filter hook input priority 0; policy drop;",
            "ct state established,related accept",
            'iifname "lo" accept',
            *rules,
            "}",
            "}",
        ]
    )


@pytest.mark.skipif(not shutil.which("nft"), reason="needs nft, to filter packets")
def test_behind_the_charts_network_policies():
    manifests = documents((MANIFESTS / "vllm.yaml").read_text())
    pods = pods_of(manifests)
    flat = ["guard", "mllm", "client", "foreign", "impostor", "prometheus"]
    with hosts_on({"pods": flat}) as hosts:
        model = hosts.address("mllm")
        with serving(hosts, "mllm", model):
            assert ask(hosts, "client", model) == f"original from {hosts.address('client')}", (
                "without policies everybody reaches it: this test can fail"
            )
            addresses = {host: hosts.address(host) for host in flat}
            for host in ("guard", "mllm"):
                rules = filter_of(manifests, pods, host, addresses)
                done = hosts.run(host, "nft", "--file", "-", input=rules)
                assert done.returncode == 0, done.stderr
            for host in ("client", "foreign", "impostor", "prometheus"):
                assert ask(hosts, host, model) is None
            guard = hosts.address("guard")
            assert ask(hosts, "client", guard) == f"purified from {guard}"
            assert ask(hosts, "foreign", guard) is None
