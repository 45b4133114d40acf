"""What each protocol costs beside chat completions: the same pictures, in turn, in one service.

The engine gives every picture back, and the upstream answers at once, so that what is left is the
service's own work: taking a conversation apart, the codec, and passing the answer on. The protocols
take turns in short rounds, so that whatever else the machine does hits all of them.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pybase64
import uvloop

from benchmarks.family import measure_family_cpu_s
from benchmarks.fixed_upstream import MODEL
from benchmarks.identity_engine import IMPORT_PATH
from benchmarks.lean_client import LeanConnections, write_request
from benchmarks.report import Figure, percentiles_ms
from benchmarks.rivals import run_fixed_upstream
from benchmarks.server import RunningServer, run_server
from benchmarks.trace import make_picture

__all__ = ["measure_protocols"]

PICTURE_SIZE = (576, 704)
NUM_ROUNDS = 20
# With a picture a request takes many times as long.
PICTURE_PART = 5
QUESTION = "What do you see in this picture?"
BASELINE = "chat"
PATHS = {BASELINE: "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}


@dataclass(slots=True)
class _Measured:
    """What the requests of one protocol took."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


def measure_protocols(num_requests: int) -> tuple[list[Figure], str]:
    """Asks in each protocol in turn.

    Args:
        num_requests: Texts to each; a fifth as many with a picture.

    Returns:
        The rows, and `cpu`: no device has a part in it.
    """
    measured = {(kind, name): _Measured() for kind in ("text", "image") for name in PATHS}
    with run_fixed_upstream() as upstream, tempfile.TemporaryFile() as log:
        settings = {"engine": IMPORT_PATH, "detector": "none", "devices": "cpu"}
        settings |= {"upstream_url": f"{upstream.url}/v1", "log_level": "info"}
        with run_server(log.fileno(), **settings) as server:
            uvloop.run(_measure(server, measured, num_requests))
    config = {
        "requests": num_requests,
        "rounds": NUM_ROUNDS,
        "clients": 1,
        "image_bytes": len(make_picture(*PICTURE_SIZE).jpeg),
        "baseline": BASELINE,
    }
    return list(_rows(measured, config)), "cpu"


def _rows(
    measured: dict[tuple[str, str], _Measured], config: dict[str, object]
) -> Iterator[Figure]:
    for (kind, name), ours in measured.items():
        theirs = measured[kind, BASELINE]
        times, before = percentiles_ms(ours.seconds), percentiles_ms(theirs.seconds)
        p50_ms, baseline_ms = times["p50_ms"], before["p50_ms"]
        yield Figure(f"{kind}_{name}_p50", config, p50_ms, "ms", baseline=baseline_ms, **times)
        cpus_ms = [1000 * each.cpu_s / len(each.seconds) for each in (ours, theirs)]
        label = f"{kind}_{name}_processor"
        yield Figure(label, config, cpus_ms[0], "ms/request", baseline=cpus_ms[1])


async def _measure(
    server: RunningServer, measured: dict[tuple[str, str], _Measured], num_requests: int
) -> None:
    connections = LeanConnections(server.url)
    for kind, part in (("text", 1), ("image", PICTURE_PART)):
        requests = {
            name: write_request(
                server.url,
                path,
                _write_body(name, with_image=kind == "image"),
                {"content-type": "application/json"},
            )
            for name, path in PATHS.items()
        }
        in_round = max(1, num_requests // (NUM_ROUNDS * part))
        for _ in range(NUM_ROUNDS):
            for name, request in requests.items():
                await _ask(connections, server, request, measured[kind, name], in_round)


async def _ask(
    connections: LeanConnections,
    server: RunningServer,
    request: bytes,
    measured: _Measured,
    num_requests: int,
) -> None:
    cpu_before_s = measure_family_cpu_s(server.pid)
    for _ in range(num_requests):
        started_s = time.perf_counter()
        reply = await connections.exchange(request)
        measured.seconds.append(time.perf_counter() - started_s)
        if reply.status != 200:
            msg = f"the service answered {reply.status}"
            raise RuntimeError(msg)
    measured.cpu_s += measure_family_cpu_s(server.pid) - cpu_before_s


def _write_body(protocol: str, *, with_image: bool) -> bytes:
    encoded = pybase64.b64encode_as_string(make_picture(*PICTURE_SIZE).jpeg)
    url = f"data:image/jpeg;base64,{encoded}"
    source = {"type": "base64", "media_type": "image/jpeg", "data": encoded}
    parts: dict[str, list[dict[str, Any]]] = {
        "chat": [
            {"type": "text", "text": QUESTION},
            {"type": "image_url", "image_url": {"url": url}},
        ],
        "responses": [
            {"type": "input_text", "text": QUESTION},
            {"type": "input_image", "image_url": url, "detail": "auto"},
        ],
        "messages": [{"type": "text", "text": QUESTION}, {"type": "image", "source": source}],
    }
    content = parts[protocol] if with_image else parts[protocol][:1]
    said = [{"role": "user", "content": content}]
    name = "input" if protocol == "responses" else "messages"
    limit = {"max_tokens": 64} if protocol == "messages" else {}
    return json.dumps({"model": MODEL, name: said, **limit}).encode()
