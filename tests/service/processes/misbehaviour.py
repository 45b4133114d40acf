"""Handlers for children of tests; a module of its own, because spawned processes import it."""

import os
import time
from pathlib import Path

from codefend.service.sandbox.layers import allow_cpu_time, confine


def make_handler(name):
    if name == "refuses to start":
        raise RuntimeError(name)
    return handle, {"name": name}


def make_confined_handler(memory_bytes):
    confine(memory_bytes, Path("/nowhere"))
    return handle, {}


def handle(meta, blob, ask):
    action = ACTIONS.get(meta.get("do"))
    answer = action(meta, ask) if action else None
    return answer or ({"echo": meta}, blob[::-1])


def die(*_):
    os._exit(7)


def work(*_):
    while True:
        pass


def spin(*_):
    allow_cpu_time(0)
    work()


def hoard(*_):
    try:
        bytearray(1 << 30)
    except MemoryError:
        return {"memory": "refused"}, b""


def write(meta, _):
    try:
        with open(meta["path"], "wb") as file:
            file.write(b"x")
    except OSError:
        return {"file": "refused"}, b""


ACTIONS = {
    "die": die,
    "sleep": lambda *_: time.sleep(60),
    "nap": lambda *_: time.sleep(0.5),
    "work": work,
    "spin": spin,
    "hoard": hoard,
    "write": write,
    "ask": lambda meta, ask: ({"told": ask({"question": meta["what"]})}, b""),
}
