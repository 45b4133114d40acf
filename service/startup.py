"""What the service says of itself when it starts: its version, what is set, and what is unknown."""

import difflib
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

from codefend.service.policy import Mode
from codefend.service.settings import PREFIX, Settings

__all__ = ["describe_start", "find_unknown_variables", "installed_version"]

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


def _without_credentials(url: str) -> str:
    """Scheme, host, port and path: names, keys and queries are left out."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
