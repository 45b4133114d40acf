"""The fields of Anthropic's messages, block by block.

Sources: Anthropic's API reference and the types of its Python client, `anthropic.types` and its
`beta`; vLLM's, SGLang's, Ollama's, llama.cpp's and LiteLLM's servers of `/v1/messages`. A block
passes if no picture can come in with it: what tools of the upstream's once answered passes as
text, and files' ids do not.
"""

import re

from codefend.service.protocols.fields import (
    GATEWAY,
    NOTES,
    REASONING,
    SIGNATURES,
    TEXT,
    TOOL_REFERENCE,
    UPSTREAM_RUNS,
    Choice,
    Field,
    FieldKind,
    Owner,
    Place,
    closed,
    names,
    rows,
    table,
)

__all__ = ["MESSAGES_TABLE"]

_O = Owner
_K = FieldKind

_TYPE = rows(_O.ANTHROPIC, _K.PLAIN, "type")
_NOT_PURIFIED = (
    "nobody has purified what it names. Send the image itself: "
    '{"type": "base64", "media_type": "image/png", "data": "..."}'
)
_IMAGE_SOURCE = Choice(
    "type",
    {
        "base64": table(
            _TYPE,
            rows(_O.ANTHROPIC, _K.PLAIN, "media_type"),
            rows(_O.ANTHROPIC, _K.PICTURE_SOURCE, "data"),
            required="data",
        ),
        "url": table(_TYPE, rows(_O.ANTHROPIC, _K.PICTURE_SOURCE, "url"), required="url"),
    },
    reason=_NOT_PURIFIED,
)
_IMAGE = table(
    NOTES,
    _TYPE,
    rows(_O.ANTHROPIC, _K.PLAIN, "transformations"),
    rows(_O.ANTHROPIC, _K.OBJECT, "source", _IMAGE_SOURCE),
    required="source",
)
_TEXTS = Choice("type", {"text": TEXT})
_DOCUMENT_SOURCE = Choice(
    "type",
    {
        "text": table(
            _TYPE,
            [("media_type", Field(_O.ANTHROPIC, _K.PLAIN, values=names("text/plain")))],
            rows(_O.ANTHROPIC, _K.TEXT, "data"),
            required="data",
        ),
        "content": table(
            _TYPE,
            rows(_O.ANTHROPIC, _K.CONTENT, "content",
                 Choice("type", {"text": TEXT, "image": _IMAGE})),
        ),
    },
    reason=(
        "pictures in such a document cannot be purified. Send its text, or its pages as images: "
        '{"type": "content", "content": [...]}'
    ),
)  # fmt: skip
_DOCUMENT = table(
    NOTES,
    _TYPE,
    rows(_O.ANTHROPIC, _K.TEXT, "title context citations"),
    rows(_O.ANTHROPIC, _K.OBJECT, "source", _DOCUMENT_SOURCE),
    required="source",
)
_SEARCH_RESULT = table(
    NOTES,
    _TYPE,
    # Where a text is from; nobody takes it for the source of a picture, which is an object.
    rows(_O.ANTHROPIC, _K.TEXT, "source title citations"),
    rows(_O.ANTHROPIC, _K.CONTENT, "content", _TEXTS),
    required="source",
)
_SHOWN = {
    "text": TEXT,
    "image": _IMAGE,
    "document": _DOCUMENT,
    "search_result": _SEARCH_RESULT,
}

_USE = [
    *NOTES,
    *_TYPE,
    *rows(_O.ANTHROPIC | _O.OLLAMA, _K.REFERENCE, "name server_name toolset_name caller"),
    *rows(_O.ANTHROPIC | _O.VLLM | _O.SGLANG | _O.OLLAMA, _K.TEXT, "input"),
    *rows(_O.LITELLM, _K.OPAQUE, "provider_specific_fields"),
    *SIGNATURES,
]
# LiteLLM hides Gemini's thought signatures in the ids.
_TOOL_USE = table([row for row in _USE if row[0] != "id"], rows(_O.ANTHROPIC, _K.OPAQUE, "id"))
_RESULT = [
    *NOTES,
    *_TYPE,
    *rows(_O.ANTHROPIC | _O.LITELLM, _K.OPAQUE, "tool_use_id"),
    *rows(_O.ANTHROPIC, _K.PLAIN, "is_error"),
    *rows(_O.ANTHROPIC, _K.REFERENCE, "toolset_name caller"),
]
_BROWSER_STATE = table(NOTES, _TYPE, rows(_O.ANTHROPIC, _K.TEXT, "tabs state_changes"))
_TOOL_RESULT_PARTS = {"tool_reference": TOOL_REFERENCE, "browser_state": _BROWSER_STATE} | _SHOWN
_TOOL_RESULT = table(
    _RESULT, rows(_O.ANTHROPIC, _K.CONTENT, "content", Choice("type", _TOOL_RESULT_PARTS))
)


def _result(inner: Place) -> Place:
    """The table of what a tool of the upstream's once answered."""
    return table(_RESULT, rows(_O.ANTHROPIC, _K.OBJECT, "content", inner))


_ERROR_CODES = [*_TYPE, *rows(_O.ANTHROPIC, _K.TEXT, "error_code error_message")]
_RAN = table(
    _ERROR_CODES,
    rows(_O.ANTHROPIC, _K.TEXT, "stdout stderr"),
    rows(_O.ANTHROPIC, _K.OPAQUE, "encrypted_stdout"),
    rows(_O.ANTHROPIC, _K.PLAIN, "return_code"),
    # Ids of files, and a plot is one.
    closed(_O.ANTHROPIC, "", "content"),
)
_EDITED = table(
    _ERROR_CODES,
    [("file_type", Field(_O.ANTHROPIC, _K.PLAIN, values=names("text")))],
    rows(_O.ANTHROPIC, _K.TEXT, "content lines"),
    rows(_O.ANTHROPIC, _K.PLAIN,
         """is_file_update num_lines start_line total_lines new_lines new_start old_lines
         old_start"""),
)  # fmt: skip
_SERVERS_RESULTS = {
    "web_search_tool_result": _result(
        table(
            _ERROR_CODES,
            rows(_O.ANTHROPIC, _K.TEXT, "url title page_age"),
            rows(_O.ANTHROPIC, _K.OPAQUE, "encrypted_content"),
        )
    ),
    "web_fetch_tool_result": _result(
        table(
            _ERROR_CODES,
            rows(_O.ANTHROPIC, _K.TEXT, "url retrieved_at"),
            rows(_O.ANTHROPIC, _K.OBJECT, "content", Choice("type", {"document": _DOCUMENT})),
        )
    ),
    "advisor_tool_result": _result(
        table(
            _ERROR_CODES,
            rows(_O.ANTHROPIC, _K.TEXT, "text stop_reason"),
            rows(_O.ANTHROPIC, _K.OPAQUE, "encrypted_content"),
        )
    ),
    "code_execution_tool_result": _result(_RAN),
    "bash_code_execution_tool_result": _result(_RAN),
    "text_editor_code_execution_tool_result": _result(_EDITED),
    "tool_search_tool_result": _result(
        table(_ERROR_CODES, rows(_O.ANTHROPIC, _K.OBJECT, "tool_references", TOOL_REFERENCE))
    ),
    "mcp_tool_result": table(_RESULT, rows(_O.ANTHROPIC, _K.CONTENT, "content", _TEXTS)),
}

_TOOL = table(
    _TYPE,
    rows(_O.ANTHROPIC, _K.REFERENCE, "name"),
    rows(_O.ANTHROPIC, _K.TEXT, "description input_schema input_examples"),
    rows(_O.ANTHROPIC | _O.VLLM, _K.PLAIN,
         "strict defer_loading cache_control allowed_callers eager_input_streaming"),
    # Of those that Anthropic describes and the client runs: a shell, an editor, a screen.
    rows(_O.ANTHROPIC, _K.PLAIN,
         """display_height_px display_width_px display_number enable_zoom max_characters
         configs"""),
)  # fmt: skip
_TOOLS = Choice(
    "type",
    {"custom": _TOOL},
    absent=_TOOL,
    pattern=re.compile(
        r"(bash|text_editor|computer|memory|computer_toolset|browser_toolset)_[0-9]{8}"
        r"|tool_search_tool_(bm25|regex)(_[0-9]{8})?"
    ),
    matching=_TOOL,
    reason=UPSTREAM_RUNS,
)
_NAMED_TOOL = table(_TYPE, rows(_O.ANTHROPIC, _K.REFERENCE, "name server_name"))
_REMOVED = dict.fromkeys(
    ("tool_reference", "mcp_tool_reference", "mcp_toolset_reference"), _NAMED_TOOL
)
_ADDED = {
    "tool_reference": _NAMED_TOOL,
    "tool_definition": table(_TYPE, rows(_O.ANTHROPIC, _K.OBJECT, "definition", _TOOLS)),
}
_CHANGES = {
    name: table(NOTES, _TYPE, rows(_O.ANTHROPIC, _K.OBJECT, "tool", tools))
    for name, tools in (
        ("tool_addition", Choice("type", _ADDED, reason=UPSTREAM_RUNS)),
        ("tool_removal", Choice("type", _REMOVED)),
    )
}
_COMPACTION = table(
    NOTES,
    _TYPE,
    SIGNATURES,
    rows(_O.ANTHROPIC, _K.TEXT, "content"),
    rows(_O.ANTHROPIC, _K.OPAQUE, "encrypted_content"),
    rows(_O.ANTHROPIC, _K.OBJECT, "tool_changes", Choice("type", _CHANGES)),
)
_BLOCKS = {
    "thinking": REASONING,
    "redacted_thinking": REASONING,
    "tool_use": _TOOL_USE,
    "server_tool_use": _TOOL_USE,
    "mcp_tool_use": _TOOL_USE,
    "tool_result": _TOOL_RESULT,
    "tool_reference": TOOL_REFERENCE,
    "compaction": _COMPACTION,
    "mcp_tool_listing": table(_TYPE, rows(_O.ANTHROPIC, _K.TEXT, "mcp_server_name tools")),
    "fallback": table(_TYPE, rows(_O.ANTHROPIC, _K.TEXT, "from to trigger")),
} | _SHOWN | _SERVERS_RESULTS | _CHANGES  # fmt: skip

_SAYS = [
    *rows(_O.ANTHROPIC, _K.PLAIN, "role clear_at output_config"),
    *rows(_O.CLIENTS, _K.REFERENCE, "id"),
]
_MESSAGE = table(_SAYS, rows(_O.ANTHROPIC, _K.CONTENT, "content", Choice("type", _BLOCKS)))
_SYSTEM_MESSAGE = table(
    _SAYS, rows(_O.ANTHROPIC, _K.CONTENT, "content", Choice("type", {"text": TEXT} | _CHANGES))
)

MESSAGES_TABLE = table(
    rows(_O.ANTHROPIC, _K.OBJECT, "messages",
         Choice("role", {"system": _SYSTEM_MESSAGE}, _MESSAGE)),
    rows(_O.ANTHROPIC, _K.CONTENT, "system", _TEXTS),
    rows(_O.ANTHROPIC, _K.OBJECT, "tools", _TOOLS),
    rows(_O.ANTHROPIC, _K.REFERENCE, "model user_profile_id tool_choice diagnostics"),
    rows(_O.ANTHROPIC, _K.PLAIN,
         """max_tokens stream temperature top_k top_p thinking service_tier speed inference_geo
         cache_control"""),
    rows(_O.ANTHROPIC, _K.TEXT,
         "stop_sequences metadata output_config output_format context_management compaction"),
    rows(_O.LITELLM, _K.PLAIN, "reasoning_effort"),
    rows(_O.VLLM | _O.SGLANG | _O.LLAMA_CPP, _K.OBJECT, "chat_template_kwargs", table(
        closed(_O.VLLM, "it takes the place of what the server or the request says",
                "chat_template documents messages tokenize tools"),
        other=Field(_O.VLLM | _O.SGLANG, _K.PLAIN))),
    closed(_O.ANTHROPIC | _O.VLLM, UPSTREAM_RUNS, "mcp_servers container kv_transfer_params"),
    closed(_O.ANTHROPIC, "it takes the place of the conversation that was checked", "thread"),
    closed(_O.ANTHROPIC, "it says as whom the upstream is asked, and by which model",
            "billing_policy workspace_id fallbacks fallback_credit_token"),
    closed(_O.LITELLM, "it switches guardrails", "safeguards"),
    base=GATEWAY,
)  # fmt: skip
