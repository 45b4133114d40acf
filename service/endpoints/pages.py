"""Pages for people, which ask nobody for anything: `/`, to try the service, and /docs, its API.

The page at `/` is plain files from `page/`, and attacked scenes of the gallery; it uses the public
API as any other client does. Swagger UI (npm `swagger-ui-dist` 5.35.0, Apache-2.0) lies beside it,
gzipped; /docs holds style, scripts and description in one, so that one request with a key is
enough. Content Security Policies allow scripts of this service alone, and requests to it alone.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from codefend.service.errors import NotFound
from codefend.service.settings import Settings

__all__ = ["PAGE_PATHS", "build_docs", "build_page"]

HERE = Path(__file__).parent
PAGE_PATHS = frozenset({"/", "/page/{file}"})
"""What the page at `/` consists of."""
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
NUM_SCENES = 10
"""The gallery's first: none is left out because its attack or its defence failed."""
FORBIDDEN = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    f"{FORBIDDEN}; connect-src 'self'; img-src 'self' blob: data:; "
    "script-src 'self'; style-src 'self'"
)
START = """
SwaggerUIBundle({
  spec: JSON.parse(document.getElementById("openapi").textContent),
  dom_id: "#swagger-ui",
  validatorUrl: null,
});
"""
DOCS = """<!doctype html>
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


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it is sent; browsers ask each time whether theirs is still the same."""

    content: bytes
    headers: Mapping[str, str]

    @classmethod
    def of(cls, name: str, content: bytes) -> "_File":
        headers = _headers(PAGE_POLICY) | {
            "Content-Type": MEDIA_TYPES[Path(name).suffix],
            "Cache-Control": "no-cache",
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        }
        return cls(content, headers)

    def answer(self, request: Request) -> Response:
        """The file, or that it has not changed."""
        if request.headers.get("if-none-match") == self.headers["ETag"]:
            return Response(status_code=304, headers=self.headers)
        return Response(self.content, headers=self.headers)


def build_page(settings: Settings) -> APIRouter:
    """Builds `/`, and the files it needs below `/page/`."""
    router = APIRouter(include_in_schema=False)
    contents = {path.name: path.read_bytes() for path in (HERE / "page").iterdir()}
    contents |= _scenes(HERE / "gallery")
    page = Template(contents.pop("index.html").decode()).substitute(
        has_keys=str(settings.has_keys).lower(), max_body_bytes=settings.max_body_bytes
    )
    index = _File.of("index.html", page.encode())
    files = {name: _File.of(name, content) for name, content in contents.items()}

    @router.get("/")
    async def root(request: Request) -> Response:
        return index.answer(request)

    @router.get("/page/{file}")
    async def file(request: Request, file: str) -> Response:
        if file not in files:
            raise NotFound
        return files[file].answer(request)

    return router


def _scenes(gallery: Path) -> dict[str, bytes]:
    """By name, the pictures of the first scenes, and the list of what is true of them."""
    entries = json.loads((gallery / "scenes.json").read_bytes())[:NUM_SCENES]
    paths = [gallery / entry[kind] for entry in entries for kind in ("clean", "attacked")]
    listed = [
        entry | {kind: Path(entry[kind]).name for kind in ("clean", "attacked")}
        for entry in entries
    ]
    pictures = {path.name: path.read_bytes() for path in paths}
    return pictures | {"scenes.json": json.dumps(listed).encode()}


def build_docs() -> APIRouter:
    """Builds /docs."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        policy = (
            f"{FORBIDDEN}; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src {_allow(_library())} {_allow(START)}"
        )
        return HTMLResponse(_write_docs(request.app.openapi()), headers=_headers(policy))

    return router


def _headers(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _write_docs(openapi: dict[str, Any]) -> str:
    # In a script element nothing but its end means anything to a reader of HTML.
    described = json.dumps(openapi).replace("<", "\\u003c")
    return DOCS.format(style=_style(), openapi=described, library=_library(), start=START)


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
    text = gzip.decompress((HERE / "swagger_ui" / f"{name}.gz").read_bytes()).decode()
    return text.partition("/*# sourceMappingURL")[0]
