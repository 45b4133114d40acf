"""Logs, one JSON object a line: hashes, sizes, outcomes, times; never pixels, prompts or keys."""

import json
import logging
import sys
import time
from typing import Any

__all__ = ["EVENT_VERSION", "configure_logs", "log_request"]

EVENT_VERSION = 1
"""Of `deploy/observability/events.schema.json`, which describes the lines of requests and images.

Fields may be added within a version; one that goes, or changes its meaning, makes a new one.
"""

_access = logging.getLogger("codefend.access")
_audit = logging.getLogger("codefend.audit")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure_logs(level: str) -> None:
    """Sends all logs of this process to standard error, as JSON.

    Args:
        level: debug, info, warning or error.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # httpx logs every request it makes at this level, with its URL.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def log_request(
    common: dict[str, Any], images: list[dict[str, Any]], facts: dict[str, Any]
) -> None:
    """Writes the line that every request leaves behind, and before it one for each of its images.

    Args:
        common: What every line says.
        images: What each image was, and what became of it.
        facts: What the request's own line says beside that.
    """
    common = {"event": EVENT_VERSION} | common
    for image in images:
        _audit.info("image", extra={"fields": common | image})
    _access.info("request", extra={"fields": common | facts})
