"""What deploy/observability asks of Prometheus, and a Prometheus that answers it."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import yaml

HERE = Path(__file__).parents[2] / "deploy" / "observability"
RULES = HERE / "rules.yml"
PROMETHEUS = shutil.which("prometheus")
# Minutes become so many seconds, so that a drill takes no hours.
SECONDS_A_MINUTE = 1
SCRAPE_S = 0.2


def alerts():
    """Every alert: its name, expression, annotations and the rest."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    """Title and expressions of every panel that asks for something."""
    board = json.loads((HERE / "grafana" / "dashboards" / "codefend.json").read_text())
    return {
        f"{panel['id']}: {panel['title']}": [target["expr"] for target in panel["targets"]]
        for panel in board["panels"]
        if panel["type"] != "row"
    }


def hurried(text):
    """The same, with every minute as seconds."""
    return re.sub(r"\b(\d+)m\b", lambda m: f"{int(m[1]) * SECONDS_A_MINUTE}s", text)


class LivePrometheus:
    """Debian's, on the rules as they are but for their durations."""

    def __init__(self, url):
        self._client = httpx.Client(base_url=url, timeout=10)

    def close(self):
        self._client.close()

    def is_ready(self):
        with contextlib.suppress(httpx.TransportError):
            return self._client.get("/-/ready").status_code == 200
        return False

    def query(self, expression):
        answer = self._client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def firing(self):
        """The names of the alerts that fire now."""
        answer = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in answer if alert["state"] == "firing"}


@contextlib.contextmanager
def live_prometheus(directory, *targets):
    """Runs it in a process of its own until the end."""
    config = yaml.safe_load((HERE / "prometheus.yml").read_text())
    interval = f"{int(1000 * SCRAPE_S)}ms"
    config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    config["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    (directory / "rules.yml").write_text(hurried(RULES.read_text()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [
        PROMETHEUS,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, cwd=directory) as process:
        prometheus = LivePrometheus(f"http://{address}")
        try:
            ends_s = time.monotonic() + 60
            while not prometheus.is_ready():
                assert process.poll() is None
                assert time.monotonic() < ends_s
                time.sleep(0.1)
            yield prometheus
        finally:
            prometheus.close()
            process.kill()
