"""OpenAI's chat completions: `POST /v1/chat/completions`.

Sources: OpenAI's API reference, section Chat Completions; vLLM's, SGLang's, Ollama's, llama.cpp's
and LiteLLM's servers of the same path; see `fields.py`.
"""

from typing import Any

from codefend.service.protocols.base import (
    EventReader,
    EventRole,
    Protocol,
    add_text,
    read_event,
    read_object,
)
from codefend.service.protocols.fields import (
    ANNOTATIONS,
    CALLED,
    CITATIONS,
    FUNCTION,
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
    closed,
    names,
    rows,
    table,
    text_part,
)

__all__ = ["CHAT", "CHAT_COMPLETIONS", "PROTOCOLS", "read_choices", "read_chunk"]

_O = Owner
_K = FieldKind

_IMAGE_URL = table(
    rows(_O.OPENAI, _K.PICTURE, "url"),
    rows(_O.OPENAI, _K.PLAIN, "detail"),
    rows(_O.LITELLM, _K.PLAIN, "format video_metadata"),
    rows(_O.SGLANG, _K.PLAIN, "max_dynamic_patch min_dynamic_patch"),
    rows(_O.HOSTS, _K.PLAIN, "min_pixels max_pixels"),
    required="url",
)
_IMAGE = table(
    NOTES,
    rows(_O.OPENAI, _K.PLAIN, "type"),
    rows(_O.OPENAI, _K.PICTURE, "image_url", _IMAGE_URL),
    rows(_O.HOSTS, _K.PLAIN, "detail min_pixels max_pixels"),
    rows(_O.SGLANG, _K.PLAIN, "modalities"),
    closed(_O.OPENAI, "", "text"),  # a part is one thing: servers differ in which of two they read
    required="image_url",
)


_PARTS = {
    "text": TEXT,
    "input_text": TEXT,
    "output_text": TEXT,
    "refusal": text_part("refusal"),
    "image_url": _IMAGE,
    "tool_reference": TOOL_REFERENCE,
}
_ASSISTANT_PARTS = _PARTS | dict.fromkeys(("thinking", "reasoning", "redacted_thinking"), REASONING)

_TOOL_CALL = table(
    rows(_O.OPENAI, _K.PLAIN, "type"),
    rows(_O.OPENAI | _O.VLLM | _O.SGLANG | _O.OLLAMA, _K.PLAIN, "index"),
    # LiteLLM hides Gemini's thought signatures in the ids.
    rows(_O.OPENAI | _O.LITELLM, _K.OPAQUE, "id call_id"),
    rows(_O.OPENAI, _K.OBJECT, "function custom", CALLED),
    rows(_O.ANTHROPIC | _O.LITELLM, _K.PLAIN, "cache_control caller"),
    rows(_O.LITELLM | _O.GEMINI, _K.OPAQUE, "provider_specific_fields extra_content"),
    SIGNATURES,
)

_TOOL = table(
    # Other types are run by the upstream: they fetch what the conversation names.
    [("type", Field(_O.OPENAI, _K.PLAIN, values=names("function custom")))],
    rows(_O.OPENAI, _K.OBJECT, "function custom", FUNCTION),
    rows(_O.VLLM | _O.SGLANG | _O.ANTHROPIC, _K.PLAIN, "defer_loading allowed_callers"),
    [row for row in FUNCTION.fields.items() if row[0] != "defer_loading"],
)
_TOOLS = rows(_O.OPENAI, _K.OBJECT, "tools", _TOOL)

_MESSAGE = [
    *rows(_O.OPENAI, _K.PLAIN, "role"),
    *rows(_O.OPENAI | _O.OLLAMA, _K.REFERENCE, "name tool_name"),
    *rows(_O.OPENAI | _O.LITELLM, _K.OPAQUE, "tool_call_id"),
    *rows(_O.CLIENTS, _K.REFERENCE, "id"),
    *rows(_O.CLIENTS, _K.PLAIN, "type status"),
    *rows(_O.ANTHROPIC | _O.LITELLM, _K.PLAIN, "cache_control is_error"),
    *rows(_O.SGLANG, _K.OBJECT, "tools", _TOOL),
    *closed(_O.OPENAI, "", "audio"),  # what was once said aloud
]
_ANYBODY = table(_MESSAGE, rows(_O.OPENAI, _K.CONTENT, "content", Choice("type", _PARTS)))
_ASSISTANT = table(
    _MESSAGE,
    ANNOTATIONS,
    CITATIONS,
    SIGNATURES,
    rows(_O.OPENAI, _K.CONTENT, "content", Choice("type", _ASSISTANT_PARTS)),
    rows(_O.OPENAI, _K.TEXT, "refusal"),
    rows(_O.VLLM | _O.SGLANG | _O.OLLAMA | _O.LITELLM | _O.OPENROUTER | _O.HOSTS, _K.TEXT,
         "reasoning reasoning_content thinking"),
    rows(_O.OPENROUTER, _K.OPAQUE, "reasoning_details"),
    rows(_O.OPENAI | _O.LITELLM, _K.OPAQUE, "encrypted_content reasoning_items"),
    rows(_O.LITELLM, _K.OBJECT, "thinking_blocks",
         Choice("type", {kind: REASONING for kind in ("thinking", "redacted_thinking")})),
    rows(_O.LITELLM | _O.GEMINI, _K.OPAQUE, "provider_specific_fields extra_content"),
    rows(_O.OPENAI, _K.OBJECT, "tool_calls", _TOOL_CALL),
    rows(_O.OPENAI, _K.OBJECT, "function_call", CALLED),
    rows(_O.LITELLM | _O.OPENROUTER, _K.OBJECT, "images", Choice("type", {"image_url": _IMAGE})),
)  # fmt: skip

_PREDICTION = table(
    rows(_O.OPENAI, _K.PLAIN, "type"),
    rows(_O.OPENAI, _K.CONTENT, "content", Choice("type", _PARTS)),
)
_RESPONSE_FORMAT = table(
    rows(_O.OPENAI, _K.PLAIN, "type strict"),
    rows(_O.OPENAI, _K.REFERENCE, "name"),
    rows(_O.OPENAI, _K.TEXT, "json_schema schema grammar"),
    rows(_O.VLLM | _O.SGLANG, _K.TEXT, "structures triggers format begin end"),
    rows(_O.HOSTS | _O.LITELLM, _K.TEXT, "value pattern regex response_schema"),
    rows(_O.LITELLM, _K.PLAIN, "enforce_validation"),
)
_DOCUMENT = table(rows(_O.VLLM | _O.HOSTS, _K.TEXT, "id doc_id title text content contents data"))

CHAT = table(
    rows(_O.OPENAI, _K.OBJECT, "messages", Choice("role", {"assistant": _ASSISTANT}, _ANYBODY)),
    rows(_O.OPENAI, _K.REFERENCE, "model user safety_identifier prompt_cache_key"),
    rows(_O.OPENAI, _K.PLAIN,
         """audio frequency_penalty logit_bias logprobs max_completion_tokens max_tokens modalities
         moderation n parallel_tool_calls presence_penalty prompt_cache_options
         prompt_cache_retention reasoning_effort seed service_tier store stream stream_options
         temperature top_logprobs top_p verbosity web_search_options"""),
    rows(_O.OPENAI, _K.TEXT, "stop metadata"),
    rows(_O.OPENAI, _K.OBJECT, "prediction", _PREDICTION),
    rows(_O.OPENAI, _K.OBJECT, "response_format", _RESPONSE_FORMAT),
    rows(_O.OPENAI, _K.OBJECT, "functions", FUNCTION),
    rows(_O.OPENAI, _K.REFERENCE, "function_call tool_choice"),
    _TOOLS,
    rows(_O.VLLM, _K.PLAIN,
         """add_generation_prompt add_special_tokens allowed_token_ids best_of
         continue_final_message echo guided_decoding_backend ignore_eos include_reasoning
         include_stop_str_in_output length_penalty logprob_token_ids min_p min_tokens priority
         prompt_logprobs repetition_detection repetition_penalty return_token_ids
         return_tokens_as_token_ids skip_special_tokens spaces_between_special_tokens
         stop_token_ids stream_interval thinking_token_budget top_k truncate_prompt_tokens
         truncation_side use_beam_search"""),
    rows(_O.VLLM, _K.TEXT,
         """bad_words guided_choice guided_grammar guided_json guided_regex
         guided_whitespace_pattern structured_outputs"""),
    rows(_O.VLLM | _O.HOSTS, _K.OBJECT, "documents", _DOCUMENT),
    rows(_O.VLLM | _O.SGLANG, _K.OBJECT, "chat_template_kwargs", table(
        closed(_O.VLLM, "it takes the place of what the server or the request says",
                "chat_template documents messages tokenize tools"),
        other=Field(_O.VLLM | _O.SGLANG, _K.PLAIN))),
    rows(_O.VLLM | _O.SGLANG | _O.OPENROUTER, _K.REFERENCE, "request_id session_id cache_salt"),
    rows(_O.SGLANG, _K.PLAIN,
         """data_parallel_rank disagg_prefill_dp_rank images_config max_dynamic_patch
         min_dynamic_patch no_stop_trim return_hidden_states routed_dp_rank separate_reasoning
         stream_reasoning task use_audio_in_video"""),
    rows(_O.SGLANG, _K.TEXT, "ebnf regex stop_regex"),
    rows(_O.SGLANG, _K.REFERENCE, "rid extra_key ngram_corpus_id"),
    rows(_O.OLLAMA, _K.PLAIN, "_debug_render_only keep_alive options think"),
    rows(_O.OLLAMA, _K.TEXT, "format"),
    rows(_O.OLLAMA | _O.OPENROUTER, _K.PLAIN, "reasoning"),
    rows(_O.LLAMA_CPP, _K.PLAIN, "lora reasoning_format response_fields samplers"),
    rows(_O.LLAMA_CPP, _K.TEXT, "dry_sequence_breakers grammar grammar_triggers json_schema"),
    rows(_O.OPENROUTER, _K.PLAIN, "debug image_config provider route usage"),
    rows(_O.OPENROUTER, _K.REFERENCE, "models"),
    rows(_O.ANTHROPIC | _O.LITELLM, _K.PLAIN, "context_management output_config thinking"),
    rows(_O.GEMINI, _K.PLAIN, "safety_settings"),
    rows(_O.HOSTS, _K.PLAIN,
         """context_length_exceeded_behavior exclude_domains include_domains prompt_mode
         search_domain_filter search_mode search_options search_recency_filter
         translation_options"""),
    rows(_O.HOSTS, _K.TEXT, "guideline tool_prompt"),
    rows(_O.HOSTS, _K.REFERENCE, "adapter_id safety_model"),
    closed(_O.VLLM | _O.SGLANG, UPSTREAM_RUNS,
            """bootstrap_host bootstrap_port bootstrap_room chat_template custom_logit_processor
            custom_params ec_transfer_params kv_transfer_params logits_processors lora_path
            lora_request media_io_kwargs mm_processor_kwargs disaggregated_params session_params
            vllm_xargs"""),
    closed(_O.SGLANG | _O.HOSTS, "it takes the place of the conversation that was checked",
            "input_ids prompt_token_ids cached_content preset previous_response_id conversation"),
    closed(_O.HOSTS | _O.OPENROUTER, UPSTREAM_RUNS,
            """compound_custom container data_sources enhancements google plugins
            search_parameters transforms"""),
    base=GATEWAY,
)  # fmt: skip


_CHUNK_FIELDS = frozenset({"choices", "usage"})
_IDENTITY = ("id", "created", "model")


def read_choices(content: bytes) -> dict[str, Any]:
    """Reads a JSON object with choices, each an object, and at least one.

    Raises:
        ValueError: It is not one; or TypeError, RecursionError.
    """
    document = read_object(content)
    choices = document.get("choices")
    if not (isinstance(choices, list) and choices and all(isinstance(c, dict) for c in choices)):
        msg = "no choices"
        raise ValueError(msg)
    return document


def read_chunk(payload: bytes) -> dict[str, Any]:
    """Reads one chunk of a stream; the caller looks whether it is an error.

    Raises:
        ValueError: It is no chunk; or RecursionError, TypeError.
    """
    chunk = read_event(payload)
    if chunk.get("error"):
        return chunk
    choices = chunk.get("choices") or []
    if not (chunk.keys() & _CHUNK_FIELDS and isinstance(choices, list)):
        msg = "no chunk"
        raise ValueError(msg)
    if not all(isinstance(choice, dict) for choice in choices):
        msg = "no choices"
        raise ValueError(msg)
    return chunk


class _Chunks(EventReader):
    """A chunk that says why the answer ends, or how long it was, may be the last before `[DONE]`.

    What the defence did stands in that one. A chunk of its own would have no choices, and many
    clients take the first of them unseen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._identity: dict[str, Any] = {}
        self._has_reason = False

    def read(self, payload: bytes) -> EventRole:
        if payload == b"[DONE]":
            return EventRole.DONE
        chunk = read_chunk(payload)
        if chunk.get("error"):
            return EventRole.ERROR
        self._identity = {name: chunk[name] for name in _IDENTITY if name in chunk}
        choices = chunk.get("choices") or []
        if not choices:
            return EventRole.MAY_BE_LAST
        if all(choice.get("finish_reason") for choice in choices):
            self._has_reason = True
            return EventRole.LAST
        # LiteLLM's proxy puts an empty choice into the chunk that tells the usage.
        is_usage = self._has_reason and chunk.get("usage")
        return EventRole.MAY_BE_LAST if is_usage else EventRole.PART

    def own_event(self) -> dict[str, Any]:
        return self._identity | {"object": "chat.completion.chunk", "choices": []}


def _instruct(document: dict[str, Any], text: str) -> None:
    """Many models' own templates take one system message, and take it first alone."""
    messages = document["messages"]
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    if first.get("role") in {"system", "developer"}:
        add_text(first, "content", text, {"type": "text", "text": text})
    else:
        messages.insert(0, {"role": "system", "content": text})


_IMAGE_SCHEMA = {"type": "string", "description": "A data: URL or bare base64 of an image."}
_PART_SCHEMA = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["text", "image_url", "refusal"]},
        "text": {"type": "string"},
        "image_url": {
            "type": "object",
            "required": ["url"],
            "properties": {"url": _IMAGE_SCHEMA, "detail": {"type": "string"}},
        },
    },
}
_MESSAGE_SCHEMA = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string"},
        "content": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"anyOf": [{"type": "string"}, _PART_SCHEMA]}},
                {"type": "null"},
            ]
        },
    },
    "additionalProperties": True,
}

CHAT_COMPLETIONS = Protocol(
    name="chat",
    path="/v1/chat/completions",
    description=(
        "OpenAI's chat: every image is purified, text goes to the model as it is.\n\n"
        "What is neither text nor an image that can be purified is refused, and so are fields "
        "that are not known. The answer is the upstream's, with a `codefend` object beside its "
        "choices: the last chunk's when it streams."
    ),
    table=CHAT,
    conversation="messages",
    conversation_schema={"type": "array", "items": _MESSAGE_SCHEMA, "minItems": 1},
    image_part='{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}',
    instruct=_instruct,
    answer_fields={"choices": list[dict[str, Any]]},
    read_answer=read_choices,
    make_reader=_Chunks,
    token_limits=("max_tokens", "max_completion_tokens"),
    choice_limits=("n",),
)
PROTOCOLS = (CHAT_COMPLETIONS,)
