"""Mutated images over HTTP, many at once, against the whole service with a fake engine."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import httpx

from tests.fuzz.envelopes import wrap
from tests.fuzz.mutations import mutate
from tests.fuzz.tally import Tally, read_rss

NUM_CLIENTS = 8
ENDPOINTS = ("/v1/purify", "/v1/caption", "/v1/vqa?question=what")


def fuzz_http(service, seed, numbers, progress=lambda: None):
    """Sends the given mutations; a 5xx, or no answer, is a fault, and its input is kept."""
    tally = Tally()
    lock = Lock()
    pids = [child.pid for child in service.runtime._images.decode._pool._children]
    restarts = service.metric("codefend_worker_restarts_total", kind="decode")

    def send(number):
        name, image = mutate(seed, number)
        content_type, body = wrap(seed, number, image)
        headers = {"content-type": content_type.encode("latin-1", "replace")}
        started_s = time.monotonic()
        try:
            path = ENDPOINTS[number % len(ENDPOINTS)]
            outcome = str(service.client.post(path, content=body, headers=headers).status_code)
        except httpx.LocalProtocolError:
            outcome = "not sendable"  # a mutated Content-Type that no client could send
        except httpx.TransportError as error:
            outcome = type(error).__name__
        with lock:
            tally.count(outcome, time.monotonic() - started_s, f"{number} ({name})")
            if not (outcome.startswith(("2", "4")) or outcome == "not sendable"):
                tally.keep(outcome, content_type, body)
            progress()

    with ThreadPoolExecutor(NUM_CLIENTS) as threads:
        list(threads.map(send, numbers[:NUM_CLIENTS]))
        tally.rss_begin_bytes = sum(read_rss(pid)[0] for pid in pids)
        list(threads.map(send, numbers[NUM_CLIENTS:]))
    children = service.runtime._images.decode._pool._children
    tally.rss_end_bytes = sum(read_rss(child.pid)[0] for child in children)
    tally.rss_peak_bytes = max(read_rss(child.pid)[1] for child in children)
    after = service.metric("codefend_worker_restarts_total", kind="decode")
    tally.num_restarts = int(after - restarts)
    return tally
