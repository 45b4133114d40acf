"""Runs in LiteLLM's own environment: prints, as JSON, its routes and whether each calls hooks.

A route calls them if the source of its endpoint, or of a function that this calls, says so.
"""

import inspect
import json
import re
import sys

from litellm.proxy._lazy_features import register_all_features
from litellm.proxy.auth.route_checks import RouteChecks
from litellm.proxy.proxy_server import app

# The last is a method that `calls_hooks` cannot follow; it ends in `pass_through_request`.
HOOK = re.compile(
    r"\b(?:pre_call_hook|base_process_llm_request|common_processing_pre_call_logic"
    r"|_base_openai_pass_through_handler)\("
)
DEPTH = 4


def calls_hooks(function, depth=DEPTH):
    """Whether a function calls them, or one of its module's and its imports' that it names."""
    function = inspect.unwrap(function)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return False
    if HOOK.search(source):
        return True
    if not depth:
        return False
    known = getattr(function, "__globals__", {})
    called = {known.get(name) for name in re.findall(r"\b(\w+)\(", source)}
    return any(calls_hooks(each, depth - 1) for each in called if inspect.isfunction(each))


def walk(routes, prefix=""):
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from walk(inner.routes, prefix)
        elif hasattr(route, "endpoint"):
            yield prefix + route.path, sorted(getattr(route, "methods", None) or ["WS"]), route


def found():
    register_all_features(app)
    for path, methods, route in walk(app.routes):
        if methods == ["GET"] or not RouteChecks.is_llm_api_route(path):
            continue
        yield {"path": path, "methods": methods, "calls_hooks": calls_hooks(route.endpoint)}


if __name__ == "__main__":
    json.dump(list(found()), sys.stdout)
