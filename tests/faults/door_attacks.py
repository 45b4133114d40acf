"""`python -m tests.faults.door_attacks`: what callers without a key can do to a running service.

Each attack runs against a `codefend serve` of its own, while /healthz is asked again and again on
new connections. What is printed: how much memory the API process gained, the probes' p50 and p99,
and what the service said in its log. `--tree` names another checkout, to compare.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.family import find_family
from benchmarks.identity_engine import IMPORT_PATH
from benchmarks.rivals import run_fixed_upstream
from benchmarks.server import free_port

HOST = "127.0.0.1"
WITH_CHILDREN = {
    "CODEFEND_ENGINE": IMPORT_PATH,
    "CODEFEND_DETECTOR": "none",
    "CODEFEND_DEVICES": "cpu",
}
KEYS = ("key-of-a", "key-of-b")
MEBIBYTE = 1 << 20
PROBE_EVERY_S = 0.02
PROBE_TIMEOUT_S = 5.0
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
UPLOAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"


async def flood(port, first, again, num_bytes):
    """Sends without end, as fast as it is taken; returns the status of an answer, if one came."""
    reader, writer = await asyncio.open_connection(HOST, port)
    answer = asyncio.create_task(reader.read(64))
    with suppress(ConnectionError):
        writer.write(first)
        for _ in range(num_bytes // len(again)):
            writer.write(again)
            await writer.drain()
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(5):
            await answer
    writer.close()
    if not answer.done() or answer.cancelled() or answer.exception() or not answer.result():
        return "none"
    return answer.result().split()[1].decode()


async def tiny_fields(port):
    return await flood(port, HEAD, b"a:b\r\n" * 13107, 30 * MEBIBYTE)


async def one_field(port):
    return await flood(port, HEAD + b"A: ", b"x" * 65536, 139 * MEBIBYTE)


async def endless_target(port):
    return await flood(port, b"GET /", b"x" * 65536, 139 * MEBIBYTE)


async def empty_lines(port):
    return await flood(port, b"", b"\r\n" * 32768, 139 * MEBIBYTE)


async def endless_trailers(port):
    return await flood(port, UPLOAD + b"\r\n0\r\n", b"a:b\r\n" * 13107, 30 * MEBIBYTE)


async def trailers_with_a_key(port):
    key = f"Authorization: Bearer {KEYS[0]}\r\n\r\n0\r\n".encode()
    return await flood(port, UPLOAD + key, b"a:b\r\n" * 13107, 30 * MEBIBYTE)


async def tiny_chunks_with_a_key(port):
    key = f"Authorization: Bearer {KEYS[0]}\r\n\r\n".encode()
    return await flood(port, UPLOAD + key, b"1\r\nx\r\n" * 10922, 30 * MEBIBYTE)


async def endless_body(port):
    return await flood(
        port, UPLOAD + b"\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n", 512 * MEBIBYTE
    )


async def pipelined(port):
    return await flood(port, b"", (HEAD + b"\r\n") * 1600, 30 * MEBIBYTE)


async def silent_and_dripping(port, seconds=25.0):
    """400 connections, opened again when they are closed: half say nothing, half a line now and
    then."""

    async def one(is_dripping):
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(HOST, port)
                try:
                    if is_dripping:
                        writer.write(HEAD)
                    while time.monotonic() < ends_s and not reader.at_eof():
                        if is_dripping:
                            writer.write(b"a: b\r\n")
                        with suppress(TimeoutError):
                            await asyncio.wait_for(reader.read(1 << 16), 5)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.5)

    await asyncio.gather(*(one(number % 2) for number in range(400)))
    return "-"


def kill_children(parent):
    for pid in find_family(parent):
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


async def silent_while_children_die(port, process):
    """The same, while every decoder, encoder and worker is killed: when is it ready again?"""
    silent = asyncio.create_task(silent_and_dripping(port))
    await asyncio.sleep(5)
    kill_children(process.pid)
    killed_at_s = time.monotonic()
    was_unready, ready_after_s = False, None
    async with httpx.AsyncClient(headers={"Connection": "close"}) as client:
        while not silent.done():
            with suppress(httpx.TransportError):
                is_ready = (await client.get(f"http://{HOST}:{port}/readyz")).is_success
                was_unready = was_unready or not is_ready
                if was_unready and is_ready and ready_after_s is None:
                    ready_after_s = round(time.monotonic() - killed_at_s, 1)
            await asyncio.sleep(0.1)
    await silent
    return f"ready again after {ready_after_s} s"


async def lists_with_bodies(port):
    """70 lists of models by one key, each with a body of 32 MB; the other key asks for one."""
    head = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS[0]}\r\n"
    first = f"{head}Content-Length: {32 * MEBIBYTE}\r\n\r\n".encode()
    sending = asyncio.gather(*(flood(port, first, b"x" * 65536, 32 * MEBIBYTE) for _ in range(70)))
    await asyncio.sleep(0.3)
    other = []
    async with httpx.AsyncClient(timeout=60) as client:
        while not sending.done():
            started_s = time.monotonic()
            with suppress(httpx.TransportError):
                headers = {"Authorization": f"Bearer {KEYS[1]}"}
                answer = await client.get(f"http://{HOST}:{port}/v1/models", headers=headers)
                other.append((answer.status_code, round(time.monotonic() - started_s, 3)))
            await asyncio.sleep(0.05)
    statuses = sorted(set(await sending))
    return f"{','.join(statuses)}; other key: {max(other, key=lambda pair: pair[1], default=None)}"


ATTACKS = {
    attack.__name__: attack
    for attack in (
        tiny_fields,
        one_field,
        endless_target,
        empty_lines,
        endless_trailers,
        trailers_with_a_key,
        tiny_chunks_with_a_key,
        endless_body,
        pipelined,
        lists_with_bodies,
        silent_and_dripping,
        silent_while_children_die,
    )
}
FEW_FILES = {"silent_and_dripping", "silent_while_children_die"}


@contextmanager
def service(tree, upstream_url, log, open_files, settings):
    port = free_port()
    environment = (
        os.environ
        | {
            "CODEFEND_PORT": str(port),
            "CODEFEND_API_KEYS": ",".join(KEYS),
            "CODEFEND_UPSTREAM_URL": upstream_url,
        }
        | settings
    )
    limit = ["prlimit", f"--nofile={open_files}:{open_files}"] if open_files else []
    command = [*limit, sys.executable, "-m", "codefend.service.cli", "serve"]
    with subprocess.Popen(command, cwd=tree, env=environment, stderr=log) as process:
        try:
            ends_s = time.monotonic() + 60
            while time.monotonic() < ends_s:
                with suppress(httpx.TransportError):
                    if httpx.get(f"http://{HOST}:{port}/readyz").is_success:
                        break
                time.sleep(0.1)
            yield process, port
        finally:
            process.kill()


def read_memory(pid, name):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def probe(port, has_ended, pipe):
    """Asks /healthz on new connections until told to end; in a process of its own."""
    seconds = []
    while not has_ended.is_set():
        started_s = time.monotonic()
        try:
            with socket.create_connection((HOST, port), timeout=PROBE_TIMEOUT_S) as connection:
                connection.sendall(HEAD + b"Connection: close\r\n\r\n")
                is_well = connection.recv(12) == b"HTTP/1.1 200"
        except OSError:
            is_well = False
        seconds.append(time.monotonic() - started_s if is_well else float("inf"))
        time.sleep(PROBE_EVERY_S)
    pipe.send(seconds)


def attack_once(attack, process, port):
    before = read_memory(process.pid, "VmRSS")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    has_ended = context.Event()
    probing = context.Process(target=probe, args=(port, has_ended, theirs))
    probing.start()
    time.sleep(1)
    arguments = (port, process) if attack is silent_while_children_die else (port,)
    answered = asyncio.run(attack(*arguments))
    time.sleep(0.5)
    has_ended.set()
    seconds = sorted(ours.recv())
    probing.join()
    at = [seconds[min(len(seconds) - 1, int(part * len(seconds)))] for part in (0.5, 0.99)]
    return {
        "answered": answered,
        "memory_mib": round((read_memory(process.pid, "VmHWM") - before) / MEBIBYTE, 1),
        "probes": len(seconds),
        "failed": sum(took == float("inf") for took in seconds),
        "p50_ms": round(1000 * at[0], 1),
        "p99_ms": round(1000 * at[1], 1),
        "longest_ms": round(1000 * seconds[-1], 1),
    }


def main(
    tree: Annotated[Path, typer.Option(help="The checkout whose service is attacked.")] = Path(),
    only: Annotated[str, typer.Option(help="Names of attacks, with commas.")] = "",
) -> None:
    """Attacks, and prints one JSON line for each attack."""
    names = only.split(",") if only else list(ATTACKS)
    with run_fixed_upstream() as upstream:
        for name in names:
            open_files = 256 if name in FEW_FILES else None
            has_children = ATTACKS[name] is silent_while_children_die
            settings = WITH_CHILDREN if has_children else {"CODEFEND_MODE": "off"}
            with (
                tempfile.TemporaryFile("w+") as log,
                service(tree, f"{upstream.url}/v1", log, open_files, settings) as (process, port),
            ):
                figures = attack_once(ATTACKS[name], process, port)
                log.seek(0)
                lines = [line for line in log if "refused at the door" in line]
                figures["log_lines"] = len(lines)
            typer.echo(json.dumps({"attack": name} | figures))


if __name__ == "__main__":
    typer.run(main)
