"""SIGKILL and SIGSTOP of every kind of child under load: no sound picture is called bad."""

import asyncio
import base64
import os
import random
import signal
import time
from pathlib import Path

from benchmarks.family import find_family
from benchmarks.server import run_server
from tests.service.pictures import png
from tests.sieges.clients import Tally, as_picture, connect, send_until

KINDS = ("decode", "encode", "purify", "mllm", "tracker")
MOST_S = 60


def kind_of(pid):
    """What a child of the service is, by what the kernel shows of it."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        status = Path(f"/proc/{pid}/status").read_text()
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return None
    if b"codefend.service.cli\0mllm" in command:
        return "mllm"
    if b"resource_tracker" in command:
        return "tracker"
    if b"spawn_main" not in command:
        return None
    if "libtorch" in maps:
        return "purify"
    return "decode" if "Seccomp:\t2" in status else "encode"


def children_of(server, kind):
    family = find_family(server.pid) - {server.pid}
    return {pid for pid in family if kind_of(pid) == kind}


async def strike(server, client, kind, number):
    """Seconds until there are as many children of this kind again, and all works."""
    before = children_of(server, kind)
    if kind == "tracker" and not before:
        return 0.0  # killed before; the next launch makes a new one
    struck = random.Random(number).choice(sorted(before))
    started_s = time.perf_counter()
    os.kill(struck, number)
    if kind == "tracker":  # nothing may depend on it
        await asyncio.sleep(1)
        if number == signal.SIGSTOP:
            os.kill(struck, signal.SIGKILL)
    while time.perf_counter() - started_s < MOST_S:
        await asyncio.sleep(0.1)
        now = await asyncio.to_thread(children_of, server, kind)
        is_replaced = kind == "tracker" or (struck not in now and len(now) == len(before))
        if is_replaced and await works(client):
            return time.perf_counter() - started_s
    return float("inf")


async def works(client):
    if (await client.get("/readyz")).status_code != 200:
        return False
    response = await client.request(**ask(time.monotonic_ns() % 100_000))
    return response.status_code == 200


def ask(seed):
    image = base64.b64encode(png(96, 96, seed=seed)).decode()
    body = {"image": image, "question": "what is in the image?", "max_tokens": 8}
    return {"method": "POST", "url": "/v1/vqa", "json": body}


def run(times=10):
    with run_server(upstream_url="", deadline_s="30") as server:

        async def play():
            ends, tally = asyncio.Event(), Tally()
            backs = {}
            async with connect(server.url) as client:
                # Enough of them that processes are mostly struck with work in hand.
                images = [png(256, 256, seed=seed) for seed in range(50)]
                sending = [
                    asyncio.create_task(send_until(ends, client, tally, request))
                    for request in (
                        lambda n: as_picture(images[n % 50]),
                        lambda n: as_picture(images[(n + 25) % 50]),
                        lambda n: ask(n + 200_000),
                    )
                ]
                for kind in KINDS:
                    for number in (signal.SIGKILL, signal.SIGSTOP):
                        backs[f"{kind} {number.name}"] = [
                            await strike(server, client, kind, number) for _ in range(times)
                        ]
                ends.set()
                await asyncio.gather(*sending)
            return tally, backs

        tally, backs = asyncio.run(play())
    yield {
        name: {"max_s": round(max(s), 2), "all_s": [round(x, 1) for x in s]}
        for name, s in backs.items()
    }
    yield tally.told()
