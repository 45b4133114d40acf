"""Two keys: what one of them does, and what the other gets meanwhile, beside what it gets alone."""

import asyncio
import itertools
import json
import sys
import time

import numpy as np

from benchmarks.server import run_server
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import encode, png
from tests.sieges.clients import Tally, as_picture, connect, send_until

KEYS = {"heavy": "h" * 32, "light": "l" * 32}
SLOW_S = 25
CHAT = "/v1/chat/completions"


def reply_slowly(handler, document):
    """The model takes long where it is asked to."""
    text = json.dumps(document)
    if "slowly" in text:
        time.sleep(SLOW_S)
    message = {"role": "assistant", "content": "done"}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    try:
        handler.send(json.dumps(answer).encode(), "application/json")
    except OSError:
        return  # whoever asked has left


def chat(text):
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return {"method": "POST", "url": CHAT, "json": body}


def noise_png(side_px, seed=0):
    """As large a file as such a picture can make."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    return encode(pixels)


def progressive_jpeg(side_px):
    pixels = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    return encode(pixels, "JPEG", progressive=True, quality=95)


def plain_png(side_px):
    return encode(np.full((side_px, side_px, 3), 200, np.uint8))


def rss_mib(pid):
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def light_pictures():
    seeds = itertools.count(1)
    return lambda _: as_picture(png(128, 128, seed=next(seeds)))


def costly_bodies():
    body = json.dumps({"image": "A" * (31 << 20) + "!"}).encode()
    headers = {"content-type": "application/json"}
    request = {"method": "POST", "url": "/v1/purify", "content": body, "headers": headers}
    return [lambda _: request] * 6, light_pictures(), 0.5, {}


def costly_decodes():
    image = progressive_jpeg(2500)
    request = as_picture(image, media_type="image/jpeg", accept="application/json")
    return [lambda _: request] * 6, light_pictures(), 0.5, {}


def of_side(side_px, num_connections):
    image = plain_png(side_px)
    request = as_picture(image, accept="application/json")
    return [lambda _: request] * num_connections, light_pictures(), 0.5, {}


def lists_of_models():
    body = bytes(32 << 20)
    request = {"method": "GET", "url": "/v1/models", "content": body}
    return [lambda _: request] * 70, light_pictures(), 0.5, {}


SCENES = {
    # What the heavy key sends over how many connections; what the light key sends, how often.
    "slow at the model": lambda: (
        [lambda _: chat("slowly, please")] * 12, lambda _: chat("now"), 6.0, {"deadline_s": "20"}
    ),
    "the same, six seconds": lambda: (
        [lambda _: chat("slowly, please")] * 12, lambda _: chat("now"), 6.0, {"deadline_s": "6"}
    ),
    "costly bodies": costly_bodies,
    "costly decodes": costly_decodes,
    "2 megapixels": lambda: of_side(1414, 8),
    "9 megapixels": lambda: of_side(3000, 2),
    "25 megapixels": lambda: of_side(5000, 2),
    "lists of models": lists_of_models,
}  # fmt: skip


def play(name, seconds):
    settings = SCENES[name]()[3]
    with run_upstream() as upstream:
        upstream.reply = reply_slowly
        values = {"api_keys": ",".join(KEYS.values()), "upstream_url": upstream.url} | settings
        with run_server(**values) as server:
            return asyncio.run(_play(server, name, seconds))


async def _play(server, name, seconds):
    _, light, pause_s, _ = SCENES[name]()
    alone, beside = Tally(), Tally()
    async with connect(server.url, KEYS["light"]) as client:
        await _for(seconds / 3, [(client, alone, light, min(pause_s, 1.0))])
        before_mib = rss_mib(server.pid)
        peak = [before_mib]
        watching = asyncio.create_task(_watch(server.pid, peak))
        # In a process of its own: what it does to its own loop is not the service's doing.
        command = [sys.executable, "-m", "tests.sieges.tenants", name, server.url, str(seconds)]
        heavy = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        await _for(seconds, [(client, beside, light, pause_s)])
        told, _ = await heavy.communicate()
        watching.cancel()
    return {
        "alone": alone.told(),
        "beside": beside.told(),
        "heavy": json.loads(told),
        "api_process_grew_mib": round(max(peak) - before_mib, 1),
    }


async def _be_heavy(name, url, seconds):
    requests, _, _, _ = SCENES[name]()
    tally = Tally()
    async with connect(url, KEYS["heavy"]) as client:
        await _for(seconds, [(client, tally, request, 0.0) for request in requests])
    return tally.told()


async def _for(seconds, senders):
    ends = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, ends.set)
    await asyncio.gather(
        *(send_until(ends, client, tally, make, pause) for client, tally, make, pause in senders)
    )


async def _watch(pid, peak):
    while True:
        peak.append(rss_mib(pid))
        await asyncio.sleep(0.2)


def run(seconds=60, names=()):
    for name in names or SCENES:
        yield {name: play(name, seconds)}


if __name__ == "__main__":
    scene, url, seconds = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(_be_heavy(scene, url, float(seconds)))))
