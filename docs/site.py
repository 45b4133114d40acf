"""What the site adds to the pages of docs/: the repository's own, the API's, and formulas.

Called by mkdocs while it builds (`make site`). The pages are written to be read in the repository;
links that lead out of docs/ take what they lead to along, under `repository/`.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OPENAPI = ROOT / "tests" / "service" / "openapi.json"
FIRST = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(\]\()((?!https?:|#)[^)\s#]+)")
_MATH = re.compile(r"^```math\n(.*?)^```$|\$`([^`\n]+)`\$", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page of endpoints, the repository's pages, and whatever the pages link to."""
    files.append(File.generated(config, "openapi.md", content=openapi_page()))
    todo = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    known = {*todo, *FIRST}
    todo += FIRST
    while todo:
        name = todo.pop()
        if not name.startswith("docs/"):
            files.append(_file_of(name, config))
        if name.endswith(".md") and (ROOT / name).exists():
            found = {target for target in targets(name) if not target.startswith("docs/")}
            todo += sorted(found - known)
            known |= found
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Sets formulas as MathML, which needs no script."""
    return _MATH.sub(_as_mathml, markdown) if page.file.src_uri != "openapi.md" else markdown


def on_page_read_source(page: Page, **_: Any) -> str | None:
    """Reads a page with its links as they are on the site."""
    uri = page.file.src_uri
    return None if uri == "openapi.md" else rewritten(repository_path(uri))


def targets(name: str) -> Iterator[str]:
    """The paths, within the repository, that a page links to."""
    for text in _CODE.split((ROOT / name).read_text(encoding="utf-8"))[::2]:
        for link in _LINK.finditer(text):
            yield posixpath.normpath(posixpath.join(posixpath.dirname(name), link[2]))


def rewritten(name: str) -> str:
    """The text of a page of the repository, its links those of the site."""
    here = posixpath.dirname(site_path(name))

    def link_on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link[2]))
        return link[1] + posixpath.relpath(site_path(target), here or ".")

    return _outside_code((ROOT / name).read_text(encoding="utf-8"), link_on_site)


def site_path(name: str) -> str:
    """Where a path of the repository is on the site."""
    if name == "README.md":
        return "index.md"
    return name.removeprefix("docs/") if name.startswith("docs/") else f"repository/{name}"


def repository_path(uri: str) -> str:
    """Where a page of the site is in the repository."""
    if uri == "index.md":
        return "README.md"
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"


def _outside_code(text: str, change: Callable[[re.Match[str]], str]) -> str:
    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(change, part) for part in parts[::2]]
    return "".join(parts)


def _file_of(name: str, config: MkDocsConfig) -> File:
    return File.generated(config, site_path(name), abs_src_path=str(ROOT / name))


def _as_mathml(formula: re.Match[str]) -> str:
    if formula[1]:
        return "\n" + convert(formula[1].strip(), display="block") + "\n"
    return str(convert(formula[2]))


def openapi_page() -> str:
    """Every endpoint of the OpenAPI document, with its fields: a page in Markdown."""
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    lines = ["# Every endpoint", "", "Written out of the OpenAPI document, which a running service"]
    lines += ["shows at `/docs`; [HTTP API](api.md) explains and has examples.", ""]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += [f"## {method.upper()} {path}", "", operation.get("summary", "") + ".", ""]
            if "description" in operation:
                lines += [_escaped(operation["description"]), ""]
            lines += _fields_of(operation, document)
            lines += _answers_of(operation)
    return "\n".join(lines) + "\n"


def _fields_of(operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (item["name"], item["in"], item.get("required", False), item["schema"], item)
        for item in operation.get("parameters", ())
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(content.get("schema", {}), document)
        required = schema.get("required", ())
        rows += [
            (name, kind, name in required, _resolved(field, document), field)
            for name, field in schema.get("properties", {}).items()
        ]
    if rows:
        yield from ("| field | in | type | needed | what |", "|---|---|---|---|---|")
    for name, place, required, schema, described in rows:
        text = described.get("description") or schema.get("description", "")
        needed = "yes" if required else ""
        yield f"| `{name}` | {place} | {_type_of(schema)} | {needed} | {_escaped(text)} |"
    yield ""


def _answers_of(operation: dict[str, Any]) -> Iterator[str]:
    yield from ("| status | answer |", "|---|---|")
    for status, answer in operation["responses"].items():
        yield f"| {status} | {_escaped(answer.get('description', ''))} |"
    yield ""


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found = document["components"]["schemas"][reference.rpartition("/")[2]]
    return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}


def _type_of(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    choices = [choice.get("type", "object") for choice in schema.get("anyOf", ())]
    return " or ".join(choices) or str(schema.get("type", "object"))


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
