"""GET /docs: the API's description in a page that asks nobody for anything.

Swagger UI (npm `swagger-ui-dist` 5.35.0, Apache-2.0) lies beside this module, gzipped. Style,
scripts and the description are all in the page, so that one request with a key is enough; the
Content Security Policy allows the two scripts by their digests, and requests to this service alone.
"""

import base64
import gzip
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

__all__ = ["build_docs"]

FOLDER = Path(__file__).with_name("swagger_ui")
START = """
SwaggerUIBundle({
  spec: JSON.parse(document.getElementById("openapi").textContent),
  dom_id: "#swagger-ui",
  validatorUrl: null,
});
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>CoDefend</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<div id="swagger-ui"></div>
<script type="application/json" id="openapi">{openapi}</script>
<script>{library}</script>
<script>{start}</script>
</body>
</html>
"""


def build_docs() -> APIRouter:
    """Builds /docs."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        policy = (
            "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src {_allow(_library())} {_allow(START)}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        return HTMLResponse(_write_page(request.app.openapi()), headers=headers)

    return router


def _write_page(openapi: dict[str, Any]) -> str:
    # In a script element nothing but its end means anything to a reader of HTML.
    described = json.dumps(openapi).replace("<", "\\u003c")
    return PAGE.format(style=_style(), openapi=described, library=_library(), start=START)


def _allow(script: str) -> str:
    """A script's digest, as a policy names it."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _library() -> str:
    return _read("swagger-ui-bundle.js")


@cache
def _style() -> str:
    return _read("swagger-ui.css")


def _read(name: str) -> str:
    # The last line names a source map, which is not shipped.
    text = gzip.decompress((FOLDER / f"{name}.gz").read_bytes()).decode()
    return text.partition("/*# sourceMappingURL")[0]
