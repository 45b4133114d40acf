"""Requests of Anthropic's messages to plant in, and the judge of what arrives of them."""

import base64

from codefend.service.protocols.messages import MESSAGES
from tests.fuzz.planted import Ground
from tests.service.pictures import png

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png",
         "data": base64.b64encode(png(8, 8, seed=78)).decode()}}  # fmt: skip
TEXT = {"type": "text", "text": "q"}
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {
    "a": {"type": "string"}}}, "input_examples": [{"a": "b"}], "strict": True}  # fmt: skip
USE = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": "b"}}


def _asked(*messages, **fields):
    return {"max_tokens": 9, "messages": list(messages), **fields}


def _says(role, *content):
    return {"role": role, "content": list(content)}


REQUESTS = (
    _asked({"role": "user", "content": "hi"}),
    _asked(_says("user", TEXT, IMAGE), system="be brief", temperature=0.5,
           stop_sequences=["a"], metadata={"user_id": "u"}),
    _asked(_says("user", IMAGE, TEXT | {"citations": [{"type": "char_location",
                                                       "cited_text": "c"}]}),
           _says("assistant", {"type": "thinking", "thinking": "t", "signature": "s"},
                 {"type": "redacted_thinking", "data": "d"}, TEXT, USE),
           _says("user", {"type": "tool_result", "tool_use_id": "t", "content": [TEXT, IMAGE]}),
           system=[TEXT | {"cache_control": {"type": "ephemeral"}}], tools=[TOOL, {
               "type": "custom", **TOOL}, {"type": "bash_20250124", "name": "bash"}],
           tool_choice={"type": "tool", "name": "f"}),
    _asked(_says("user", {"type": "document", "title": "t", "context": "c", "source": {
                     "type": "text", "media_type": "text/plain", "data": "d"}},
                 {"type": "document", "source": {"type": "content", "content": [TEXT, IMAGE]}},
                 {"type": "search_result", "source": "s", "title": "t", "content": [TEXT]}),
           {"role": "assistant", "content": "a"},
           _says("user", {"type": "tool_result", "tool_use_id": "t", "is_error": True,
                          "content": "r"}),
           thinking={"type": "disabled"}, output_config={"effort": "low"}),
    _asked({"role": "user", "content": "q"},
           _says("assistant", {"type": "server_tool_use", "id": "s", "name": "web_search",
                               "input": {"query": "q"}},
                 {"type": "web_search_tool_result", "tool_use_id": "s", "content": [
                     {"type": "web_search_result", "url": "u", "title": "t",
                      "encrypted_content": "e", "page_age": None}]},
                 {"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {
                     "type": "web_fetch_result", "url": "u", "content": {
                         "type": "document", "source": {"type": "text", "data": "d"}}}},
                 {"type": "code_execution_tool_result", "tool_use_id": "s", "content": {
                     "type": "code_execution_result", "stdout": "o", "stderr": "",
                     "return_code": 0, "content": []}},
                 {"type": "mcp_tool_use", "id": "m", "name": "f", "server_name": "n", "input": {}},
                 {"type": "mcp_tool_result", "tool_use_id": "m", "content": [TEXT]}),
           _says("user", {"type": "tool_result", "tool_use_id": "t", "content": [
               {"type": "search_result", "source": "s", "title": "t", "content": [TEXT]},
               {"type": "document", "source": {"type": "content", "content": "c"}}]}),
           context_management={"edits": []}),
    _asked(_says("system", TEXT), _says("user", TEXT, {"type": "compaction", "content": "c"},
           {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": TOOL}}),
           chat_template_kwargs={"a": 1}, compaction={"a": "b"}),
)  # fmt: skip

_OPAQUE = {"signature", "thought_signature", "provider_specific_fields"}
_ANY_JSON = {
    "stop_sequences", "metadata", "output_config", "output_format", "context_management",
    "compaction",
}  # fmt: skip
_OF_TOOLS = {"description", "input_schema", "input_examples"}
_OF_ANNOTATIONS = {"url_citation", "url", "title", "cited_text", "extras", "text", "value"}
_USES = {"tool_use", "server_tool_use", "mcp_tool_use"}
_THOUGHTS = {"thinking", "redacted_thinking"}
_OF_THOUGHTS = _OPAQUE | {
    "thinking", "text", "reasoning", "summary", "content", "data", "encrypted_content", "extras",
}  # fmt: skip
_ERRORS = {"error_code", "error_message"}
_OF_RESULTS = {
    "web_search_tool_result": {"url", "title", "page_age", "encrypted_content"},
    "web_fetch_tool_result": {"url", "retrieved_at"},
    "advisor_tool_result": {"text", "stop_reason", "encrypted_content"},
    "code_execution_tool_result": {"stdout", "stderr", "encrypted_stdout"},
    "bash_code_execution_tool_result": {"stdout", "stderr", "encrypted_stdout"},
    "text_editor_code_execution_tool_result": {"content", "lines"},
    "tool_search_tool_result": set(),
}
_OF_OTHERS = {
    "mcp_tool_listing": {"mcp_server_name", "tools"},
    "fallback": {"from", "to", "trigger"},
    "browser_state": {"tabs", "state_changes"},
}


def _may_stand(names, holders):
    match names:
        case ["messages", "content"] | ["system"]:
            return True
        case ["messages", "content", *rest]:
            return _in_block(rest, holders[2:])
        case ["system", *rest]:
            return _in_text(rest, holders[1:])
        case ["tools", name, *_]:
            return name in _OF_TOOLS
        case [name, *_]:
            return name in _ANY_JSON
    return False


def _in_block(names, holders):  # noqa: PLR0911 - one line a kind
    kind, name, rest = str(holders[0].get("type")), names[0], names[1:]
    if kind in _USES:
        return name in {"input", "id"} | _OPAQUE
    if kind in _THOUGHTS:
        return name in _OF_THOUGHTS
    if kind == "document":
        return _in_document(names, holders)
    if kind == "search_result":
        is_text = name in {"source", "title", "citations"} or names == ["content"]
        return is_text or (name == "content" and _in_text(rest, holders[1:]))
    if kind == "tool_result" or kind.endswith("_tool_result"):
        return name == "tool_use_id" or (name == "content" and _in_result(kind, rest, holders[1:]))
    if kind in {"compaction", "tool_addition", "tool_removal"}:
        return _in_change(kind, names, holders)
    return name in _OF_OTHERS.get(kind, set()) or _in_text(names, holders)


def _in_text(names, holders):
    if str(holders[0].get("type")) != "text":
        return False
    if names[0] == "annotations":
        return len(names) > 1 and names[1] in _OF_ANNOTATIONS
    return names[0] in {"text", "citations", "extras"} | _OPAQUE


def _in_document(names, holders):
    match names:
        case ["title" | "context" | "citations", *_]:
            return True
        case ["source", "data"]:
            return holders[1].get("type") == "text"
        case ["source", "content"]:
            return holders[1].get("type") == "content"
        case ["source", "content", *rest]:
            return holders[1].get("type") == "content" and _in_text(rest, holders[2:])
    return False


def _in_result(kind, names, holders):
    if not names:
        return kind in {"tool_result", "mcp_tool_result"}
    if kind == "tool_result":
        inner = str(holders[0].get("type"))
        return inner in {"text", "document", "search_result", "browser_state"} and _in_block(
            names, holders
        )
    if kind == "mcp_tool_result":
        return _in_text(names, holders)
    if kind == "web_fetch_tool_result" and names[0] == "content" and len(names) > 1:
        return holders[1].get("type") == "document" and _in_document(names[1:], holders[1:])
    return names[0] in _ERRORS | _OF_RESULTS.get(kind, set())


def _in_change(kind, names, holders):
    match names:
        case ["content" | "encrypted_content", *_]:
            return kind == "compaction"
        case ["tool_changes", *rest] if kind == "compaction" and rest:
            return _in_change("tool_addition", rest, holders[1:])
        case ["tool", "definition", name, *_]:
            return kind == "tool_addition" and name in _OF_TOOLS
        case [name, *_]:
            return kind == "compaction" and name in _OPAQUE
    return False


MESSAGES_GROUND = Ground(MESSAGES, REQUESTS, _may_stand)
