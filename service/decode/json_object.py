"""Parses a request body that is to be one JSON object."""

import json
from typing import Any, NoReturn

from codefend.service.errors import InvalidBody

__all__ = ["read_json_object"]


def read_json_object(body: bytes) -> dict[str, Any]:
    """Parses a body.

    Raises:
        InvalidBody: It is not JSON, no object, or nested so deeply that nobody means it.
    """
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        msg = "The body is not valid JSON."
        raise InvalidBody(msg) from error
    if not isinstance(document, dict):
        msg = "The body must be a JSON object."
        raise InvalidBody(msg)
    return document


def _refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are Python's, and no JSON."""
    raise ValueError(name)
