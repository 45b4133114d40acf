"""What the service is measured beside: the upstream behind it, and the LiteLLM proxy before that.

LiteLLM is never a dependency: it lives in an environment of its own, and its command is given.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from benchmarks.fixed_upstream import MODEL
from benchmarks.server import RunningServer, free_port

__all__ = [
    "UPSTREAM_KEY",
    "read_litellm_version",
    "run_configured_litellm",
    "run_fixed_upstream",
    "run_litellm",
]

UPSTREAM_KEY = "upstream-key"  # what LiteLLM says who it is with

START_TIMEOUT_S = 300
# As LiteLLM's page on production has it: no debugging, errors alone logged. No database, hence
# no spend log; and its price list from its own package, since it would ask for one at the start.
LITELLM_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


@contextmanager
def run_fixed_upstream() -> Iterator[RunningServer]:
    """A model that answers at once; its URL has no /v1."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.fixed_upstream", str(port)]
    with _run(command, port, "/v1/models", os.environ) as server:
        yield server


@contextmanager
def run_litellm(
    executable: str, upstream_url: str, key: str, models: Sequence[str] = (f"openai/{MODEL}",)
) -> Iterator[RunningServer]:
    """The LiteLLM proxy with one worker, as the service has one API process.

    Args:
        executable: Its command.
        upstream_url: Ends in /v1.
        key: Its master key, so that it checks one for each request, too.
        models: Providers and names, with a slash between: clients ask for the names alone.
    """
    config = {
        "model_list": [_litellm_model(model, upstream_url) for model in models],
        "general_settings": {"master_key": key},
        "litellm_settings": {"set_verbose": False, "telemetry": False},
        # It would shut out its only model for some of the errors that the model answers with.
        "router_settings": {"disable_cooldowns": True, "num_retries": 0},
    }
    with run_configured_litellm(executable, config) as server:
        yield server


@contextmanager
def run_configured_litellm(
    executable: str,
    config: dict[str, Any],
    *,
    variables: Mapping[str, str] = MappingProxyType({}),
    modules: Sequence[Path] = (),
) -> Iterator[RunningServer]:
    """The LiteLLM proxy with any configuration.

    Args:
        executable: Its command.
        config: What its `config.yaml` holds.
        variables: Environment variables beside the present ones.
        modules: Python files that stand beside its `config.yaml`.
    """
    port = free_port()
    inherited = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environment = inherited | LITELLM_ENVIRONMENT | dict(variables)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(json.dumps(config), encoding="utf-8")  # which is YAML, too
        for module in modules:
            shutil.copy(module, folder)
        command = [executable, "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--num_workers", "1"]
        with _run(command, port, "/health/readiness", environment) as server:
            yield server


def _litellm_model(model: str, upstream_url: str) -> dict[str, Any]:
    provider, _, name = model.partition("/")
    # Of its providers, Anthropic's adds the /v1 by itself.
    base = upstream_url.removesuffix("/v1") if provider == "anthropic" else upstream_url
    parameters = {"model": model, "api_base": base, "api_key": UPSTREAM_KEY}
    return {"model_name": name, "litellm_params": parameters}


def read_litellm_version(executable: str) -> str:
    """The version that `litellm --version` tells."""
    done = subprocess.run(  # noqa: S603 - the user names the command
        [executable, "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip().rpartition(" ")[2]


@contextmanager
def _run(
    command: list[str], port: int, probe_path: str, environment: "os._Environ[str] | dict[str, str]"
) -> Iterator[RunningServer]:
    process = subprocess.Popen(  # noqa: S603 - our own command, or one that the user names
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until(lambda: httpx.get(url + probe_path).is_success, process, command[0])
        yield RunningServer(url, process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_until(answers: Callable[[], bool], process: subprocess.Popen[bytes], name: str) -> None:
    ends_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ends_s and process.poll() is None:
        try:
            if answers():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    msg = f"{name} did not become ready"
    raise RuntimeError(msg)
