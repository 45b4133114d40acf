"""The fields of OpenAI's responses, and which of their items, parts and tools are taken.

Sources: `openai.types.responses` of the Python client; `ResponsesRequest` of vLLM and of SGLang;
the servers of the same path of Ollama, LiteLLM, llama.cpp and OpenRouter.

What the upstream's own tools do is closed: they fetch pages, files and pictures that nobody has
purified. So are the items in which they come back. An id of what the upstream keeps passes if this
service gave it to the same caller; see `service/ledger.py`.
"""

from codefend.service.protocols.fields import (
    ANNOTATIONS,
    CITATIONS,
    FUNCTION,
    GATEWAY,
    NOTES,
    SIGNATURES,
    TEXT,
    THOUGHTS,
    UPSTREAM_RUNS,
    Choice,
    Field,
    FieldKind,
    Owner,
    closed,
    names,
    rows,
    table,
    text_part,
)

__all__ = ["RESPONSES_TABLE"]

_O = Owner
_K = FieldKind

_IMAGE = table(
    NOTES,
    rows(_O.OPENAI, _K.PLAIN, "type detail"),
    rows(_O.OPENAI, _K.PICTURE, "image_url"),
    closed(_O.OPENAI, "it names a picture that nobody here has purified", "file_id"),
    closed(_O.OPENAI, "", "text"),  # a part is one thing
    required="image_url",
)
_SCREENSHOT = table(
    rows(_O.OPENAI, _K.PLAIN, "type detail"),
    rows(_O.OPENAI, _K.PICTURE, "image_url"),
    closed(_O.OPENAI, "it names a picture that nobody here has purified", "file_id"),
    required="image_url",
)
_PARTS = Choice(
    "type",
    {
        "input_text": TEXT,
        "output_text": text_part(
            "text", ANNOTATIONS, CITATIONS, rows(_O.OPENAI, _K.TEXT, "logprobs")
        ),
        "text": TEXT,
        "refusal": text_part("refusal"),
        "summary_text": TEXT,
        "reasoning_text": TEXT,
        "input_image": _IMAGE,
    },
)
_CALLER = rows(_O.OPENAI, _K.OBJECT, "caller", table(
    rows(_O.OPENAI, _K.PLAIN, "type"),
    rows(_O.OPENAI, _K.OPAQUE, "caller_id")))  # fmt: skip
# Ids of gateways are long; some hold where they came from.
_ITEM = [
    *rows(_O.OPENAI, _K.PLAIN, "type status"),
    *rows(_O.OPENAI | _O.LITELLM, _K.OPAQUE, "id"),
    *rows(_O.OPENROUTER | _O.CLIENTS, _K.PLAIN, "format"),
    *rows(_O.OPENAI, _K.PLAIN, "phase"),
    *rows(_O.OPENAI, _K.REFERENCE, "created_by"),
]
_CALL = [
    *_ITEM,
    *rows(_O.OPENAI | _O.LITELLM, _K.OPAQUE, "call_id"),
    *_CALLER,
]
_MESSAGE = table(
    _ITEM,
    rows(_O.OPENAI, _K.PLAIN, "role"),
    rows(_O.VLLM | _O.CLIENTS, _K.REFERENCE, "name"),
    rows(_O.OPENAI, _K.CONTENT, "content", _PARTS),
    required="role",
)
_REASONING = table(
    _ITEM,
    SIGNATURES,
    rows(_O.OPENAI, _K.CONTENT, "summary content", THOUGHTS),
    rows(_O.OPENAI | _O.OPENROUTER, _K.OPAQUE, "encrypted_content"),
)
_FUNCTION_CALL = table(
    _CALL,
    SIGNATURES,
    rows(_O.OPENAI, _K.REFERENCE, "name"),
    rows(_O.OPENAI, _K.TEXT, "arguments input"),
    rows(_O.OPENAI, _K.REFERENCE, "namespace"),
    rows(_O.OPENAI, _K.PLAIN, "async async_"),
    rows(_O.LITELLM | _O.GEMINI, _K.OPAQUE, "provider_specific_fields"),
)
_CALL_OUTPUT = table(
    _CALL,
    rows(_O.OPENAI, _K.REFERENCE, "name namespace"),
    rows(_O.OPENAI, _K.CONTENT, "output", _PARTS),
)
_CHECKS = table(rows(_O.OPENAI, _K.OPAQUE, "id"), rows(_O.OPENAI, _K.TEXT, "code message"))
_ACTION = table(
    rows(_O.OPENAI, _K.PLAIN, "type button keys path scroll_x scroll_y x y"),
    rows(_O.OPENAI, _K.TEXT, "text"),
)
_COMPUTER_CALL = table(
    _CALL,
    rows(_O.OPENAI, _K.OBJECT, "action actions", _ACTION),
    rows(_O.OPENAI, _K.OBJECT, "pending_safety_checks", _CHECKS),
)
_COMPUTER_OUTPUT = table(
    _CALL,
    rows(_O.OPENAI, _K.OBJECT, "output",
         Choice("type", {"computer_screenshot": _SCREENSHOT, "input_image": _IMAGE})),
    rows(_O.OPENAI, _K.OBJECT, "acknowledged_safety_checks", _CHECKS),
)  # fmt: skip

_SKILL = table(rows(_O.OPENAI, _K.TEXT, "name description path"))
_ENVIRONMENT = Choice(
    "type",
    {
        "local": table(
            rows(_O.OPENAI, _K.PLAIN, "type"), rows(_O.OPENAI, _K.OBJECT, "skills", _SKILL)
        )
    },
    reason=UPSTREAM_RUNS,
)
_SHELL_CALL = table(
    _CALL,
    rows(_O.OPENAI, _K.OBJECT, "action", table(
        rows(_O.OPENAI, _K.PLAIN, "type timeout_ms max_output_length"),
        rows(_O.OPENAI, _K.TEXT, "command commands env user working_directory"))),
    rows(_O.OPENAI, _K.OBJECT, "environment", _ENVIRONMENT),
)  # fmt: skip
_SHELL_OUTPUT = table(
    _CALL,
    rows(_O.OPENAI, _K.PLAIN, "max_output_length"),
    rows(_O.OPENAI, _K.OBJECT, "output", table(
        rows(_O.OPENAI, _K.PLAIN, "outcome"),
        rows(_O.OPENAI, _K.REFERENCE, "created_by"),
        rows(_O.OPENAI, _K.TEXT, "stderr stdout"))),
)  # fmt: skip
_TEXT_OUTPUT = table(_CALL, rows(_O.OPENAI, _K.TEXT, "output"))
_PATCH_CALL = table(
    _CALL,
    rows(_O.OPENAI, _K.OBJECT, "operation", table(
        rows(_O.OPENAI, _K.PLAIN, "type"),
        rows(_O.OPENAI, _K.TEXT, "diff path"))),
)  # fmt: skip

# The tools that a client runs itself.
_CALLERS = rows(_O.OPENAI, _K.PLAIN, "allowed_callers")
_TYPE = rows(_O.OPENAI, _K.PLAIN, "type")
_FUNCTION_TOOL = table(
    _TYPE,
    _CALLERS,
    list(FUNCTION.fields.items()),
    rows(_O.OPENAI, _K.PLAIN, "async async_"),
)
_CUSTOM_TOOLS = {"function": _FUNCTION_TOOL, "custom": _FUNCTION_TOOL}
_COMPUTER_TOOL = table(
    _TYPE,
    rows(_O.OPENAI, _K.PLAIN, "display_height display_width environment"),
)
_CLIENT_TOOLS = {
    **_CUSTOM_TOOLS,
    "namespace": table(
        _TYPE,
        rows(_O.OPENAI, _K.REFERENCE, "name"),
        rows(_O.OPENAI, _K.TEXT, "description"),
        rows(_O.OPENAI, _K.OBJECT, "tools", Choice("type", _CUSTOM_TOOLS, reason=UPSTREAM_RUNS)),
    ),
    "tool_search": table(
        _TYPE,
        rows(_O.OPENAI, _K.PLAIN, "execution"),
        rows(_O.OPENAI, _K.TEXT, "description parameters"),
    ),
    "computer": _COMPUTER_TOOL,
    "computer_use_preview": _COMPUTER_TOOL,
    "local_shell": table(_TYPE),
    "shell": table(_TYPE, _CALLERS, rows(_O.OPENAI, _K.OBJECT, "environment", _ENVIRONMENT)),
    "apply_patch": table(_TYPE, _CALLERS),
}
_TOOLS = rows(_O.OPENAI, _K.OBJECT, "tools", Choice("type", _CLIENT_TOOLS, reason=UPSTREAM_RUNS))

_NAMED_TOOL = table(_TYPE, rows(_O.OPENAI, _K.REFERENCE, "name namespace"))
_NAMED_TOOLS = dict.fromkeys((*_CLIENT_TOOLS, "computer_use"), _NAMED_TOOL)
_ALLOWED_TOOLS = table(
    rows(_O.OPENAI, _K.PLAIN, "type mode"),
    rows(_O.OPENAI, _K.OBJECT, "tools", Choice("type", _NAMED_TOOLS, reason=UPSTREAM_RUNS)),
)
_TOOL_CHOICE = Choice(
    "type", {**_NAMED_TOOLS, "allowed_tools": _ALLOWED_TOOLS}, reason=UPSTREAM_RUNS
)

_FORMAT = table(
    rows(_O.OPENAI, _K.PLAIN, "type strict"),
    rows(_O.OPENAI, _K.REFERENCE, "name"),
    rows(_O.OPENAI, _K.TEXT, "description schema"),
)
_TEXT_CONFIG = table(
    rows(_O.OPENAI, _K.OBJECT, "format", _FORMAT),
    rows(_O.OPENAI, _K.PLAIN, "verbosity"),
)
_COMPACTION = table(_ITEM, rows(_O.OPENAI, _K.OPAQUE, "encrypted_content"))
_ITEMS = Choice(
    "type",
    {
        "message": _MESSAGE,
        "reasoning": _REASONING,
        "function_call": _FUNCTION_CALL,
        "function_call_output": _CALL_OUTPUT,
        "custom_tool_call": _FUNCTION_CALL,
        "custom_tool_call_output": _CALL_OUTPUT,
        "computer_call": _COMPUTER_CALL,
        "computer_call_output": _COMPUTER_OUTPUT,
        "local_shell_call": _SHELL_CALL,
        "local_shell_call_output": _TEXT_OUTPUT,
        "shell_call": _SHELL_CALL,
        "shell_call_output": _SHELL_OUTPUT,
        "apply_patch_call": _PATCH_CALL,
        "apply_patch_call_output": _TEXT_OUTPUT,
        "tool_search_call": table(
            _CALL,
            rows(_O.OPENAI, _K.TEXT, "arguments"),
            rows(_O.OPENAI, _K.PLAIN, "execution"),
        ),
        "tool_search_output": table(_CALL, _TOOLS, rows(_O.OPENAI, _K.PLAIN, "execution")),
        "additional_tools": table(_ITEM, _TOOLS, rows(_O.OPENAI, _K.PLAIN, "role")),
        "configuration_update": table(
            _ITEM,
            rows(_O.OPENAI, _K.PLAIN, "reasoning"),
            rows(_O.OPENAI, _K.OBJECT, "text", _TEXT_CONFIG),
        ),
        "compaction": _COMPACTION,
        "compaction_summary": _COMPACTION,
        "compaction_trigger": table(_ITEM),
        "item_reference": table(
            rows(_O.OPENAI, _K.PLAIN, "type"), rows(_O.OPENAI, _K.STATE, "id"), required="id"
        ),
    },
    absent=_MESSAGE,
    reason="what the upstream's own tools brought in may hold what nobody here has purified",
)
_CONVERSATION = rows(_O.OPENAI, _K.CONTENT, "input instructions", _ITEMS)

RESPONSES_TABLE = table(
    _CONVERSATION,
    rows(_O.OPENAI, _K.REFERENCE, "model user safety_identifier prompt_cache_key"),
    rows(_O.OPENAI, _K.PLAIN,
         """access_programs context_management include max_output_tokens max_tool_calls moderation
         parallel_tool_calls prompt_cache_retention reasoning service_tier store stream
         stream_options temperature top_logprobs top_p truncation"""),
    rows(_O.OPENAI, _K.TEXT, "metadata"),
    rows(_O.OPENAI, _K.OBJECT, "text", _TEXT_CONFIG),
    rows(_O.OPENAI, _K.OBJECT, "image", table(rows(_O.OPENAI, _K.PLAIN, "context_compression"))),
    rows(_O.OPENAI, _K.OBJECT, "prompt_cache_options", table(
        rows(_O.OPENAI, _K.PLAIN, "mode prewarm ttl"),
        rows(_O.OPENAI, _K.STATE, "comparison_response_id"))),
    rows(_O.OPENAI, _K.STATE, "previous_response_id conversation"),
    [("background", Field(_O.OPENAI, _K.PLAIN, values=names("false")))],
    [("tool_choice", Field(
        _O.OPENAI, _K.OBJECT, _TOOL_CHOICE, values=names("none auto required any")))],
    _TOOLS,
    closed(_O.OPENAI, "an answer made in the background would have to be fetched by its id",
           "background_options"),
    closed(_O.OPENAI, "a stored prompt may hold images that nobody here has purified", "prompt"),
    rows(_O.VLLM | _O.SGLANG, _K.PLAIN,
         """enable_response_messages frequency_penalty ignore_eos include_stop_str_in_output
         logit_bias min_p presence_penalty priority repetition_penalty seed skip_special_tokens
         stop_token_ids top_k"""),
    rows(_O.VLLM | _O.SGLANG, _K.TEXT, "stop structured_outputs"),
    rows(_O.VLLM | _O.SGLANG | _O.OPENROUTER, _K.REFERENCE, "cache_salt extra_key session_id"),
    rows(_O.OPENROUTER, _K.PLAIN, "debug image_config modalities provider route usage"),
    rows(_O.OPENROUTER, _K.REFERENCE, "models"),
    rows(_O.OLLAMA, _K.PLAIN, "keep_alive options think"),
    closed(_O.VLLM | _O.SGLANG, "the upstream's ids of answers are not the client's to choose",
           "request_id rid"),
    closed(_O.VLLM, "it takes the place of the conversation that was checked",
           "previous_input_messages previous_response"),
    closed(_O.VLLM | _O.SGLANG | _O.OPENROUTER, UPSTREAM_RUNS,
           """chat_template chat_template_kwargs kv_transfer_params media_io_kwargs
           mm_processor_kwargs plugins vllm_xargs"""),
    base=GATEWAY,
)  # fmt: skip
