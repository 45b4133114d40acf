"""What the proxy itself costs: purification off, beside the LiteLLM proxy and the upstream alone.

LiteLLM is installed apart and named with `--litellm`:

    python -m venv /tmp/litellm-venv && /tmp/litellm-venv/bin/pip install 'litellm[proxy]'
    python -m benchmarks overhead --litellm /tmp/litellm-venv/bin/litellm

Another checkout of the service is measured in the same run, to see what a change costs:

    git worktree add /tmp/before main~1 && python -m benchmarks overhead --beside /tmp/before

All run at once, and each is asked in turn, in short rounds, so that whatever else the machine does
hits all of them. Each has one API process, checks one key, and forwards to the same upstream. The
service logs as it does by default, to a file; LiteLLM as its page on production says. The overhead
is the difference between a percentile through a proxy and the same percentile without one; its
baseline is LiteLLM's. With 2,000 requests it takes four to five minutes on two busy processors.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pybase64
import uvloop

from benchmarks.family import measure_family_cpu_s
from benchmarks.fixed_upstream import MODEL
from benchmarks.identity_engine import IMPORT_PATH
from benchmarks.lean_client import LeanConnections, write_request
from benchmarks.report import Figure, percentiles_ms
from benchmarks.rivals import read_litellm_version, run_fixed_upstream, run_litellm
from benchmarks.server import RunningServer, run_server
from benchmarks.trace import make_picture

__all__ = ["measure_overhead"]

KEY = "benchmark-key"
NUM_CLIENTS = (1, 16)
# Its JPEG has 100 kB.
PICTURE_SIZE = (576, 704)
NUM_ROUNDS = 20
# At 16 clients as many requests again, since they wait for each other.
FACTOR_AT_MANY = 2
# Purification on, for context alone: it decodes and encodes, and so takes ten times as long.
CONTEXT_PART = 10
DIRECT, CODEFEND, LITELLM, IDENTITY = "direct", "codefend", "litellm", "codefend_identity"
BEFORE = {CODEFEND: "codefend_beside", IDENTITY: "codefend_identity_beside"}


@dataclass(slots=True)
class _Target:
    """A server, the connections to it, and what its answers took, by clients and body."""

    server: RunningServer
    connections: LeanConnections
    part: int = 1
    seconds: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    wall_s: dict[tuple[int, str], float] = field(default_factory=dict)
    cpu_s: dict[tuple[int, str], float] = field(default_factory=dict)


def measure_overhead(
    litellm: str | None, num_requests: int, beside: Path | None = None
) -> tuple[list[Figure], str]:
    """Asks upstream, service and LiteLLM in turn, with one client and with many.

    Args:
        litellm: Its command; None leaves it out.
        num_requests: To each with one client; twice as many with 16.
        beside: Another checkout, whose service is the baseline of this one's; None for none.

    Returns:
        The rows, and `cpu`: no device has a part in it.
    """
    with ExitStack() as stack:
        upstream = stack.enter_context(run_fixed_upstream())
        upstream_url = f"{upstream.url}/v1"
        log = stack.enter_context(tempfile.TemporaryFile()).fileno()
        common = {"upstream_url": upstream_url, "api_keys": KEY, "log_level": "info"}
        kinds = {
            CODEFEND: {"mode": "off"},
            IDENTITY: {"engine": IMPORT_PATH, "detector": "none", "devices": "cpu"},
        }
        servers = {DIRECT: upstream}
        for name, settings in kinds.items():
            servers[name] = stack.enter_context(run_server(log, **common, **settings))
            if beside is not None:
                there = ("env", "-C", str(beside))
                other = run_server(log, there, **common, **settings)
                servers[BEFORE[name]] = stack.enter_context(other)
        if litellm is not None:
            servers[LITELLM] = stack.enter_context(run_litellm(litellm, upstream_url, KEY))
        targets = {
            name: _Target(
                server,
                LeanConnections(server.url),
                CONTEXT_PART if name.startswith(IDENTITY) else 1,
            )
            for name, server in servers.items()
        }
        uvloop.run(_measure(targets, num_requests))
    config: dict[str, object] = {"requests": num_requests, "rounds": NUM_ROUNDS, "workers": 1}
    config["image_bytes"] = len(make_picture(*PICTURE_SIZE).jpeg)
    config["litellm"] = read_litellm_version(litellm) if litellm is not None else None
    return list(_rows(targets, config)), "cpu"


def _rows(targets: dict[str, _Target], config: dict[str, object]) -> Iterator[Figure]:
    for case in targets[DIRECT].seconds:
        here = {**config, "clients": case[0], "body": case[1]}
        label = f"{case[1]}_x{case[0]}"
        times = {name: percentiles_ms(target.seconds[case]) for name, target in targets.items()}
        rates = {name: len(t.seconds[case]) / t.wall_s[case] for name, t in targets.items()}
        for name, target in targets.items():
            yield Figure(f"{label}_{name}", here, rates[name], "requests/s", **times[name])
            cpu_ms = 1000 * target.cpu_s[case] / len(target.seconds[case])
            yield Figure(f"{label}_{name}_processor", here, cpu_ms, "ms/request")
        beside = {**here, "baseline": f"{LITELLM}, same percentile, each less that of {DIRECT}"}
        for rank in ("p50_ms", "p95_ms", "p99_ms"):
            over = {name: times[name][rank] - times[DIRECT][rank] for name in times}
            name = f"{label}_overhead_{rank.removesuffix('_ms')}"
            yield Figure(name, beside, over[CODEFEND], "ms", baseline=over.get(LITELLM))
        yield from _rows_beside(targets, case, here)


def _rows_beside(
    targets: dict[str, _Target], case: tuple[int, str], config: dict[str, object]
) -> Iterator[Figure]:
    """This checkout's median and processor time, beside the other's."""
    beside = {**config, "baseline": "the other checkout"}
    for name, before in BEFORE.items():
        if before not in targets:
            continue
        label = f"{case[1]}_x{case[0]}_{name}"
        ours, theirs = targets[name], targets[before]
        p50s_ms = [percentiles_ms(target.seconds[case])["p50_ms"] for target in (ours, theirs)]
        cpus_ms = [1000 * t.cpu_s[case] / len(t.seconds[case]) for t in (ours, theirs)]
        yield Figure(f"{label}_p50", beside, p50s_ms[0], "ms", baseline=p50s_ms[1])
        yield Figure(f"{label}_cpu", beside, cpus_ms[0], "ms/request", baseline=cpus_ms[1])


async def _measure(targets: dict[str, _Target], num_requests: int) -> None:
    bodies = {"text": _write_body(with_image=False), "image": _write_body(with_image=True)}
    for num_clients in NUM_CLIENTS:
        factor = 1 if num_clients == 1 else FACTOR_AT_MANY
        for name, body in bodies.items():
            for _ in range(NUM_ROUNDS):
                for target in targets.values():
                    in_round = factor * num_requests // (NUM_ROUNDS * target.part * num_clients)
                    await _ask(target, (num_clients, name), body, max(1, in_round))


async def _ask(target: _Target, case: tuple[int, str], body: bytes, num_each: int) -> None:
    """Asks once for each client unmeasured, so that connections are open, and then measures."""
    num_clients = case[0]
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    request = write_request(target.server.url, "/v1/chat/completions", body, headers)
    seconds = target.seconds.setdefault(case, [])

    async def ask(num_requests: int, times: list[float]) -> None:
        for _ in range(num_requests):
            started_s = time.perf_counter()
            reply = await target.connections.exchange(request)
            times.append(time.perf_counter() - started_s)
            if reply.status != 200:
                msg = f"{target.server.url} answered {reply.status}"
                raise RuntimeError(msg)

    async def ask_together(num_requests: int, times: list[float]) -> None:
        await asyncio.gather(*(ask(num_requests, times) for _ in range(num_clients)))

    await ask_together(1, [])
    cpu_before_s = measure_family_cpu_s(target.server.pid)
    started_s = time.perf_counter()
    await ask_together(num_each, seconds)
    wall_s = time.perf_counter() - started_s
    cpu_s = measure_family_cpu_s(target.server.pid) - cpu_before_s
    target.wall_s[case] = target.wall_s.get(case, 0.0) + wall_s
    target.cpu_s[case] = target.cpu_s.get(case, 0.0) + cpu_s


def _write_body(*, with_image: bool) -> bytes:
    content: list[dict[str, Any]] = [{"type": "text", "text": "What do you see in this picture?"}]
    if with_image:
        jpeg = pybase64.b64encode_as_string(make_picture(*PICTURE_SIZE).jpeg)
        url = f"data:image/jpeg;base64,{jpeg}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    message = {"role": "user", "content": content}
    return json.dumps({"model": MODEL, "messages": [message]}).encode()
