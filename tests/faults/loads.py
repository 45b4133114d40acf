"""Many requests at once, each with a picture of its own, so that every answer can be checked."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.service.pictures import encode, picture, pixels_of


class Senders:
    """Threads that each send one picture after another, none of them twice, until the end."""

    def __init__(self, service, number, first_seed=0):
        self._service = service
        self._seeds = itertools.count(first_seed)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send_all) for _ in range(number)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def send(self, pixels):
        """Sends one picture and notes what came of it."""
        raise NotImplementedError

    def fail(self, error):
        """Notes that there was no answer."""
        raise NotImplementedError

    def _send_all(self):
        while not self._stopped.is_set():
            try:
                self.send(picture(seed=next(self._seeds)))
            except Exception as error:  # whatever it is, it was no right answer
                self.fail(error)


def post(service, pixels, key=None):
    """Sends one picture, and asks for nothing but its purified pixels."""
    headers = {"content-type": "image/png", "accept": "image/png"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return service.client.post("/v1/purify", content=encode(pixels), headers=headers)


def post_all(service, pictures):
    with ThreadPoolExecutor(len(pictures)) as threads:
        return list(threads.map(lambda pixels: post(service, pixels), pictures))


def pictures(number, first_seed=0, **size):
    return [picture(seed=seed, **size) for seed in range(first_seed, first_seed + number)]


def is_right(response, pixels):
    """Whether this is the answer to this very picture: the fake engine inverts it."""
    return response.status_code == 200 and np.array_equal(pixels_of(response.content), 255 - pixels)


def is_clear_refusal(response):
    """Whether it is a 503 that says what happened, and when to come back."""
    error = response.json()["error"]
    return (
        response.status_code == 503
        and set(error) == {"message", "type", "param", "code"}
        and error["code"] == "purification_failed"
        and int(response.headers["retry-after"]) >= 1
    )


def head_of(body, key="none"):
    """The head of a raw HTTP request that sends this body as a PNG."""
    return (
        f"POST /v1/purify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
