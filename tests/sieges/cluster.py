"""A local Ray cluster under load: a purifier killed, purifiers and guards redeployed, one and two.

Run as a process of its own: Ray is not made for a test's. The engine is that of tests, which sleeps
for as long as a device would take and inverts, so that every pixel of every answer can be checked.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import ray
from ray import serve

from benchmarks.server import free_port
from codefend.service.cluster import GUARDS, PURIFIERS, ClusterOptions
from codefend.service.purify.remote import APPLICATION
from tests.documentation import ROOT
from tests.service.fake_engine import IMPORT_PATH
from tests.service.pictures import encode, picture, pixels_of

BATCH_S = 0.25
NUM_CLIENTS = 12


def environment():
    """What replicas find in theirs."""
    return {
        "PYTHONPATH": str(ROOT),
        "CODEFEND_ENGINE": IMPORT_PATH,
        "CODEFEND_PURIFIER": json.dumps({"seconds": BATCH_S}),
        "CODEFEND_UPSTREAM_URL": "http://127.0.0.1:9/v1",
        "CODEFEND_DECODE_WORKERS": "1",
        "CODEFEND_ENCODE_WORKERS": "1",
        "CODEFEND_CACHE_BYTES": "0",
        "CODEFEND_MAX_BATCH": "2",
        "CODEFEND_LOG_LEVEL": "warning",
    }


def deploy(num_purifiers):
    """Deploys, and waits until all of it runs; Ray replaces what ran before."""

    def options(number, **resources):
        actor = resources | {"runtime_env": {"env_vars": environment()}}
        return {"num_replicas": number, "ray_actor_options": actor}

    purifiers = PURIFIERS.options(**options(num_purifiers, num_gpus=1, num_cpus=0))
    guards = GUARDS.options(**options(1, num_cpus=0))
    app = guards.bind(purifiers.bind(), ClusterOptions(batches_at_once=2))
    serve.run(app, name=APPLICATION, route_prefix="/")


def replicas_of(name):
    """Process ids of a deployment's replicas."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if f"ServeReplica:{APPLICATION}:{name}".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


class Load:
    """Clients that each send one picture after another, none of them twice."""

    def __init__(self, url):
        self._url, self._seed, self._is_over = url, 0, False
        self.answers, self.wrong = Counter(), []

    async def _send(self, client):
        while not self._is_over:
            self._seed += 1
            pixels = picture(seed=self._seed)
            headers = {"content-type": "image/png", "accept": "image/png"}
            try:
                answer = await client.post("/v1/purify", content=encode(pixels), headers=headers)
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1
                continue
            self.answers[str(answer.status_code)] += 1
            if answer.status_code == 429:
                await asyncio.sleep(0.2)
            elif answer.status_code != 200:
                self.wrong.append(answer.text[:200])
            elif not np.array_equal(pixels_of(answer.content), 255 - pixels):
                self.wrong.append("other pixels")

    async def during(self, work):
        """Sends while something is done; returns the seconds."""
        self.answers, self.wrong, self._is_over = Counter(), [], False
        began_s = time.monotonic()
        async with httpx.AsyncClient(base_url=self._url, timeout=120) as client:
            sending = [asyncio.create_task(self._send(client)) for _ in range(NUM_CLIENTS)]
            await asyncio.to_thread(work)
            self._is_over = True
            await asyncio.gather(*sending)
        return time.monotonic() - began_s

    def row(self, what, seconds, **more):
        lost = sum(n for status, n in self.answers.items() if status not in {"200", "429"})
        return {
            "what": what,
            "answers": dict(self.answers),
            "lost": lost,
            "wrong": self.wrong[:3],
            "per_s": round(self.answers["200"] / seconds, 2),
            "seconds": round(seconds, 1),
            **more,
        }


def strike():
    """Kills a purifier in the midst of its work, and waits until another stands in its place."""
    time.sleep(3)
    before = replicas_of("Purifier")
    os.kill(before[0], signal.SIGKILL)
    ends_s = time.monotonic() + 120
    while len(set(replicas_of("Purifier")) - {before[0]}) < len(before):
        assert time.monotonic() < ends_s, "no other purifier came"
        time.sleep(0.2)
    time.sleep(3)


def redeploy(load):
    """Deploys all of it anew under load."""
    before = {*replicas_of("Purifier"), *replicas_of("Guard")}
    took_s = asyncio.run(load.during(lambda: deploy(2)))
    now = {*replicas_of("Purifier"), *replicas_of("Guard")}
    return load.row("all is redeployed", took_s, all_are_new=not before & now)


def start_cluster(num_tries=3):
    """Starts a cluster of this machine; Ray gives one half a minute, which a busy one may miss."""
    # Beside others its processes would hardly get a turn.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own name
    for number in range(1, num_tries + 1):
        try:
            ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
            return
        except Exception as error:
            ray.shutdown()
            if number == num_tries or "timed out during startup" not in str(error):
                raise


def run(seconds=10, is_brief=0):
    """Yields a row for each thing that was done to the cluster; a brief siege does less."""
    port = free_port()
    start_cluster()
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        load = Load(f"http://127.0.0.1:{port}")
        if not is_brief:
            deploy(1)
            took_s = asyncio.run(load.during(lambda: time.sleep(seconds)))
            yield load.row("one purifier", took_s)
        deploy(2)
        took_s = asyncio.run(load.during(lambda: time.sleep(seconds)))
        yield load.row("two purifiers", took_s)
        yield load.row("a purifier is killed", asyncio.run(load.during(strike)))
        yield redeploy(load)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    for each in run(*map(int, sys.argv[1:])):
        sys.stdout.write(json.dumps(each) + "\n")
        sys.stdout.flush()
