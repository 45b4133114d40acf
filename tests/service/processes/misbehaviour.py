"""Handlers for children of tests; a module of its own, because spawned processes import it."""

import os
import time

from service.decode.confinement import allow_cpu_time, confine


def make_handler(name):
    if name == "refuses to start":
        raise RuntimeError(name)
    return handle, {"name": name}


def make_confined_handler(memory_bytes):
    confine(memory_bytes)
    return handle, {}


def handle(meta, blob):
    if meta.get("do") == "die":
        os._exit(7)
    if meta.get("do") == "sleep":
        time.sleep(60)
    if meta.get("do") == "spin":
        allow_cpu_time(0)
        while True:
            pass
    if meta.get("do") == "hoard":
        try:
            bytearray(1 << 30)
        except MemoryError:
            return {"memory": "refused"}, b""
    if meta.get("do") == "write":
        try:
            with open(meta["path"], "wb") as file:
                file.write(b"x")
        except OSError:
            return {"file": "refused"}, b""
    return {"echo": meta}, blob[::-1]
