"""Clients that send one request after another, and what came of it."""

import asyncio
import time
from collections import Counter

import httpx
import numpy as np

TIMEOUT_S = 120


class Tally:
    """Statuses, and the seconds of answers with 200; 0 is a connection that was dropped."""

    def __init__(self):
        self.statuses = Counter()
        self.codes = Counter()
        self.seconds = []
        self.longest_batch_s = 0.0

    def count(self, response, seconds):
        self.statuses[response.status_code] += 1
        if response.status_code == 200:
            self.seconds.append(seconds)
            if response.headers["content-type"] == "application/json":
                stages_ms = response.json().get("timings_ms") or {}
                self.longest_batch_s = max(
                    self.longest_batch_s, stages_ms.get("purify", 0.0) / 1000
                )
        else:
            self.codes[response.json()["error"]["code"]] += 1

    def drop(self, error):
        self.statuses[0] += 1
        self.codes[type(error).__name__] += 1

    def told(self):
        spread = {}
        if self.seconds:
            quantiles = np.percentile(self.seconds, [50, 99, 100])
            spread = dict(
                zip(("p50_s", "p99_s", "max_s"), quantiles.round(3).tolist(), strict=True)
            )
        if self.longest_batch_s:
            spread["longest_batch_s"] = round(self.longest_batch_s, 2)
        return {"statuses": dict(self.statuses), "codes": dict(self.codes)} | spread


async def send_until(ends, client, tally, make_request, pause_s=0.0):
    """Sends one request after another until the event `ends`; a refusal makes it wait a little."""
    number = 0
    while not ends.is_set():
        started_s = time.perf_counter()
        try:
            response = await client.request(**make_request(number))
        except httpx.TransportError as error:
            tally.drop(error)
            await asyncio.sleep(0.2)
        else:
            tally.count(response, time.perf_counter() - started_s)
            if response.status_code != 200:
                await asyncio.sleep(0.2)
        number += 1
        await asyncio.sleep(pause_s)


def connect(url, key=None):
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S, limits=limits)


def as_picture(image, path="/v1/purify", media_type="image/png", accept="image/png"):
    headers = {"content-type": media_type, "accept": accept}
    return {"method": "POST", "url": path, "content": image, "headers": headers}
