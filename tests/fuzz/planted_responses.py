"""Requests of OpenAI's responses to plant in, and the judge of what arrives of them."""

from codefend.models.codec import ImageFormat, data_url
from codefend.service.protocols.responses import RESPONSES
from tests.fuzz.planted import Ground
from tests.service.pictures import png

IMAGE = {
    "type": "input_image",
    "image_url": data_url(png(8, 8, seed=78), ImageFormat.PNG),
    "detail": "low",
}
TEXT = {"type": "input_text", "text": "q"}
TOOL = {"type": "function", "name": "f", "description": "d", "strict": True,
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}  # fmt: skip
REQUESTS = (
    {"input": "hi"},
    {"input": [{"role": "user", "content": [TEXT, IMAGE]}], "instructions": "be brief",
     "temperature": 0.5, "user": "u", "stop": ["a"], "metadata": {"a": "b"}},
    {"input": [{"type": "message", "role": "user", "content": [TEXT, IMAGE]},
               {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "t"}],
                "content": [], "encrypted_content": "e"},
               {"type": "function_call", "id": "i", "call_id": "c", "name": "f", "arguments": "{}"},
               {"type": "function_call_output", "call_id": "c", "output": [TEXT, IMAGE]},
               {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
               {"type": "custom_tool_call_output", "call_id": "d", "output": "y"},
               {"type": "message", "id": "m", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": "a", "logprobs": [], "annotations": [
                    {"type": "url_citation", "title": "t", "url": "u"}]},
                    {"type": "refusal", "refusal": "no"}]}],
     "tools": [TOOL, {"type": "custom", "name": "g", "format": {"type": "text"}},
               {"type": "namespace", "name": "n", "description": "d", "tools": [TOOL]}],
     "tool_choice": {"type": "function", "name": "f"}, "include": ["a.b"]},
    {"input": [{"role": "user", "content": "q"},
               {"type": "computer_call", "call_id": "c", "action": {"type": "type", "text": "t"},
                "pending_safety_checks": [{"id": "s", "code": "c", "message": "m"}]},
               {"type": "computer_call_output", "call_id": "c", "output": {
                   "type": "computer_screenshot", "image_url": IMAGE["image_url"]}},
               {"type": "local_shell_call", "call_id": "l", "action": {
                   "type": "exec", "command": ["ls"], "env": {"A": "b"}}},
               {"type": "local_shell_call_output", "id": "l", "output": "o"},
               {"type": "shell_call", "call_id": "s", "action": {"commands": ["ls"]},
                "environment": {"type": "local", "skills": [{"name": "n", "path": "p"}]}},
               {"type": "shell_call_output", "call_id": "s", "output": [
                   {"stdout": "o", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
               {"type": "apply_patch_call", "call_id": "p", "operation": {
                   "type": "update_file", "path": "p", "diff": "d"}},
               {"type": "apply_patch_call_output", "call_id": "p", "output": "o"},
               {"type": "compaction", "encrypted_content": "e"}],
     "tools": [{"type": "local_shell"}, {"type": "apply_patch"},
               {"type": "shell", "environment": {"type": "local", "skills": []}}]},
    {"input": [{"role": "developer", "content": [TEXT]}, {"role": "user", "content": "q"}],
     "instructions": [{"role": "system", "content": [TEXT, IMAGE]}],
     "text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": "b"}}},
     "reasoning": {"effort": "low"}, "stream_options": {"include_obfuscation": True},
     "prompt_cache_options": {"mode": "implicit"}, "image": {"context_compression": "auto"}},
)  # fmt: skip

_OPAQUE = {"signature", "thought_signature", "provider_specific_fields"}
_TEXT_PARTS = {"input_text", "output_text", "text", "summary_text", "reasoning_text"}
_OF_ANNOTATIONS = {"url_citation", "url", "title", "cited_text", "extras", "text", "value"}
_OF_FUNCTIONS = {
    "description", "parameters", "response", "return", "returns", "output_schema", "input_schema",
    "input_examples", "format",
}  # fmt: skip
_OUTPUTS = {"function_call_output", "custom_tool_call_output"}
_IN_CALLS = [("arguments",), ("input",), *((name,) for name in _OPAQUE)]
_IN_SHELLS = [
    *(("action", name) for name in ("command", "commands", "env", "user", "working_directory")),
    *(("environment", "skills", name) for name in ("name", "description", "path")),
]
# By the type of an item, where in it a text may stand: names on the way to it.
_IN_ITEMS = {
    "local_shell_call_output": [("output",)],
    "apply_patch_call_output": [("output",)],
    "shell_call_output": [("output", "stdout"), ("output", "stderr")],
    "apply_patch_call": [("operation", "diff"), ("operation", "path")],
    "tool_search_call": [("arguments",)],
    "configuration_update": [("text", "format", "description"), ("text", "format", "schema")],
    "compaction": [("encrypted_content",)],
    "compaction_summary": [("encrypted_content",)],
    "local_shell_call": _IN_SHELLS,
    "shell_call": _IN_SHELLS,
    "function_call": _IN_CALLS,
    "custom_tool_call": _IN_CALLS,
    "computer_call": [
        ("action", "text"),
        ("actions", "text"),
        *(("pending_safety_checks", name) for name in ("id", "code", "message")),
    ],
    "computer_call_output": [
        ("acknowledged_safety_checks", name) for name in ("id", "code", "message")
    ],
}
_WITH_CALLS = {*_OUTPUTS, *_IN_ITEMS, "tool_search_output"} - {
    "configuration_update",
    "compaction",
    "compaction_summary",
}


def _may_stand(names, holders):
    match names:
        case ["input" | "instructions"]:
            return True
        case ["input" | "instructions", *rest]:
            return _in_item(rest, holders[1:])
        case ["tools", *rest] if rest:
            return _in_tool(rest, holders[1:])
        case ["text", "format", "description" | "schema", *_]:
            return True
        case ["stop" | "metadata" | "structured_outputs", *_]:
            return True
    return False


def _in_item(names, holders):  # noqa: PLR0911 - one line a place
    kind = holders[0].get("type")
    match names:
        case ["id", *_] if kind != "item_reference":
            return True
        case ["call_id", *_] | ["caller", "caller_id", *_] if kind in _WITH_CALLS:
            return True
        case ["content", *rest] if kind in {None, "message"}:
            return _in_parts(rest, holders[1:])
        case ["output", *rest] if kind in _OUTPUTS:
            return _in_parts(rest, holders[1:])
        case ["summary" | "content", *rest] if kind == "reasoning":
            return rest[:1] in ([], ["text"])  # whatever stands in a text is text, as in parts
        case ["encrypted_content" | "signature" | "thought_signature", *_] if kind == "reasoning":
            return True
        case ["tools", *rest] if kind in {"tool_search_output", "additional_tools"} and rest:
            return _in_tool(rest, holders[1:])
    return any(tuple(names[: len(way)]) == way for way in _IN_ITEMS.get(kind, ()))


def _in_parts(names, holders):
    if not names:
        return True
    kind, name = holders[0].get("type"), names[0]
    if kind in _TEXT_PARTS and name == "annotations":
        return len(names) > 1 and names[1] in _OF_ANNOTATIONS
    if kind in _TEXT_PARTS:
        has_probabilities = kind == "output_text" and name == "logprobs"
        return has_probabilities or name in {"text", "citations", "extras"} | _OPAQUE
    return kind == "refusal" and name in {"refusal"} | _OPAQUE


def _in_tool(names, holders):
    kind = holders[0].get("type")
    if kind in {"function", "custom"}:
        return names[0] in _OF_FUNCTIONS
    match names:
        case ["description", *_] if kind in {"namespace", "tool_search"}:
            return True
        case ["parameters", *_] if kind == "tool_search":
            return True
        case ["tools", *rest] if kind == "namespace" and rest:
            return _in_tool(rest, holders[1:])
        case ["environment", "skills", "name" | "description" | "path", *_]:
            return kind == "shell"
    return False


RESPONSES_GROUND = Ground(RESPONSES, REQUESTS, _may_stand)
