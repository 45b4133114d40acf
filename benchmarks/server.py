"""Starts a real `codefend serve` for a benchmark, and ends it with SIGTERM."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

__all__ = ["RunningServer", "free_port", "run_server"]

READY_TIMEOUT_S = 300
# Only purification is measured: an upstream that is never asked keeps the model out of the way.
NO_UPSTREAM = "http://127.0.0.1:9/v1"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where it listens, and its process."""

    url: str
    pid: int


def free_port() -> int:
    """A loopback port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def run_server(
    log: int | None = None, prefix: Sequence[str] = (), /, **settings: str
) -> Iterator[RunningServer]:
    """Serves on a free loopback port.

    Args:
        log: A file descriptor for its log; None for standard error.
        prefix: A command that the service's own command is given to, as `unshare` or `prlimit`.
        **settings: CODEFEND_* by their short names, such as `purifier`; an empty one is not set.

    Yields:
        The service, once it is ready.

    Raises:
        RuntimeError: It did not become ready, or did not end with 0.
    """
    port = free_port()
    values = {
        "port": str(port),
        "upstream_url": NO_UPSTREAM,
        "log_level": "warning",
        "cache_bytes": "0",  # every image of a benchmark is purified
    } | settings
    environment = os.environ | {
        f"CODEFEND_{key.upper()}": text for key, text in values.items() if text
    }
    command = [*prefix, sys.executable, "-m", "codefend.service.cli", "serve"]
    process = subprocess.Popen(command, env=environment, stderr=log)  # noqa: S603 - our own command
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url)
        yield RunningServer(url, process.pid)
    finally:
        process.terminate()
        exit_code = process.wait()
    if exit_code != 0:
        msg = f"the service ended with {exit_code}"
        raise RuntimeError(msg)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    ends_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < ends_s and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    msg = "the service did not become ready"
    raise RuntimeError(msg)
