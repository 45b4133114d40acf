"""What the service says of itself when it starts: its version, what is set, and what is unknown."""

import difflib
import os
import re
import socket
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from codefend.service.devices import Backend
from codefend.service.policy import Mode
from codefend.service.protocols.prompting import PromptSource
from codefend.service.settings import PREFIX, Settings

__all__ = [
    "describe_first_steps",
    "describe_start",
    "find_unknown_variables",
    "find_uses_of_torch",
    "installed_version",
    "why_not_bound",
]

# Of the container's recipe and of the container's start; the service itself does not know them.
CONTAINER_VARIABLES = frozenset(
    {"CODEFEND_API_KEY_FILE", "CODEFEND_TARGET", "CODEFEND_PUBLISHED_PORT"}
)
# The laboratory's own, and the plug-in's for LiteLLM; and what Kubernetes sets in every pod for a
# service of this name.
_OTHERS = re.compile(
    rf"{PREFIX}(?:(?:LAB|GUARD)_\w+|(?:\w+_)?SERVICE_(?:HOST|PORT(?:_\w+)?)|(?:\w+_)?PORT_\d+_(?:TCP|UDP)\w*)"
)


def installed_version() -> str:
    """The version of the installed package; 0 where it only lies there."""
    try:
        return version("codefend")
    except PackageNotFoundError:
        return "0"


def find_unknown_variables(names: Iterable[str]) -> dict[str, str | None]:
    """Finds variables that look like settings and are none: mostly a slip of the pen.

    Args:
        names: Of the environment's variables that are not empty.

    Returns:
        The setting that is called most like it, by variable; None where none is.
    """
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    ours = {name: name.upper() for name in names if name.upper().startswith(PREFIX)}
    return {
        name: next(iter(difflib.get_close_matches(upper, settings, 1)), None)
        for name, upper in sorted(ours.items())
        if upper not in settings | CONTAINER_VARIABLES and not _OTHERS.fullmatch(upper)
    }


def find_uses_of_torch(settings: Settings) -> list[str]:
    """What of these settings cannot be served without torch; a small image leaves it out."""
    purifies = settings.mode is not Mode.OFF
    uses = {
        "the embedded model, which answers where CODEFEND_UPSTREAM_URL is not set,": (
            settings.upstream_url is None
        ),
        f"CODEFEND_BACKEND={settings.backend}": (
            purifies and settings.backend in {Backend.EAGER, Backend.GRAPHS}
        ),
        "CODEFEND_PURIFIER_ADAPTERS": purifies and settings.purifier_adapters is not None,
        "CODEFEND_PROMPT=generator": settings.prompt is PromptSource.GENERATOR,
    }
    return [use for use, is_asked in uses.items() if is_asked]


def describe_start(settings: Settings, num_keys: int) -> dict[str, Any]:
    """What a reader of the log wants to know first; no secrets.

    Args:
        settings: As they hold.
        num_keys: How many names the API keys have.
    """
    if settings.upstream_url is None:
        model: dict[str, Any] = {"embedded_model": settings.mllm}
    else:
        model = {
            "upstream": _without_credentials(settings.upstream_url),
            "upstream_model": settings.upstream_model,
        }
    purifier = {
        "purifier": settings.purifier,
        "purifier_adapters": settings.purifier_adapters,
        "detector": settings.detector_source,
        "devices": list(settings.devices),
    }
    return {
        "version": installed_version(),
        "mode": settings.mode,
        **model,
        **({"purifier": None} if settings.mode is Mode.OFF else purifier),
        "address": f"{settings.host}:{settings.port}",
        "keys": num_keys or "none: everybody on this machine may ask",
        "metrics_port": settings.metrics_port,
        "cors_origins": list(settings.cors_origins),
        "allowed_fields": list(settings.allowed_fields),
        "unknown_fields": settings.unknown_fields,
        "upstream_reads_text_images": list(settings.upstream_reads_text_images),
        "on_purify_failure": settings.on_purify_failure,
        "on_flagged": settings.on_flagged,
        "disclose": settings.disclose,
        "traces": settings.otlp_endpoint and _without_credentials(settings.otlp_endpoint),
    }


def describe_first_steps(settings: Settings, seconds: float) -> str:
    """What whoever started the service in a terminal can do now, some lines long.

    Args:
        settings: As they hold.
        seconds: That the start took.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{'127.0.0.1' if host in {'0.0.0.0', '[::]'} else host}:{settings.port}"  # noqa: S104
    has_keys = settings.api_keys or settings.api_keys_file
    key = " -H 'Authorization: Bearer YOUR-KEY'" if has_keys else ""
    example = Path("gallery/images/007-attacked.png")
    file = example if example.exists() else "photo.jpg"
    ask = f"curl -s {url}/v1/vqa{key} -F 'question=what is in the image?' -F file=@{file}"
    # The purified image is in the answer, too: a terminal has no use for it.
    ask += r""" | grep -oE '"(answer|message)":"[^"]*"'"""
    model = "the embedded one, for a first try; yours: CODEFEND_UPSTREAM_URL=http://HOST:PORT/v1"
    if settings.upstream_url is not None:
        model = _without_credentials(settings.upstream_url)
    page = f"  Page     {url}/\n" if settings.shows_page else ""
    return f"""
CoDefend is ready at {url} (after {seconds:.0f} s).

{page}  Try it   {ask}
  Clients  base_url="{url}/v1", for OpenAI's and others'
  Model    {model}
  API      {url}/docs
  Settings codefend config
  Stop     Ctrl+C
"""


def why_not_bound(settings: Settings) -> str | None:
    """Says why the service could not listen where it is told to; None where it can.

    It is asked before models are loaded: whoever took the port needs no minute to be found.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.create_server((settings.host, settings.port), family=family):
            return None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        return (
            f"cannot listen on {settings.host}:{settings.port}: {reason}. "
            "Set CODEFEND_PORT to a free port, or CODEFEND_HOST to an address of this machine."
        )


def _without_credentials(url: str) -> str:
    """Scheme, host, port and path: names, keys and queries are left out."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
