"""The fields of a chat/completions request: whose each is, of what kind, and how it is set.

An allowlist: what stands in no table does not pass. `service/decode/walk.py` applies the tables;
another protocol gets tables of its own. Sources: OpenAI's API reference and the types of its Python
client; `ChatCompletionRequest` of vLLM and of SGLang; Ollama's `openai` package; LiteLLM's
`completion()`, `all_litellm_params` and what its proxy reads from a body.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Flag, StrEnum, auto
from typing import Self

from codefend.service.policy import Mode, UnknownFields
from codefend.service.settings import Settings

__all__ = [
    "CHAT",
    "MEDIA_FIELDS",
    "MEDIA_TYPES",
    "Choice",
    "Field",
    "FieldKind",
    "FieldRules",
    "Findings",
    "Owner",
    "Place",
]

_MOST_NAMES = 16
_LONGEST_SHOWN_PLACE = 128


class Owner(Flag):
    """Who documents a field."""

    OPENAI = auto()
    VLLM = auto()
    SGLANG = auto()
    OLLAMA = auto()
    LITELLM = auto()
    LLAMA_CPP = auto()
    OPENROUTER = auto()
    ANTHROPIC = auto()
    GEMINI = auto()
    HOSTS = auto()  # Azure, Mistral, DeepSeek, Groq, xAI, Perplexity, Together, Qwen and the like
    CLIENTS = auto()  # LangChain and others, in what they send back


class FieldKind(StrEnum):
    """What a field may hold."""

    PLAIN = "plain"  # numbers, booleans, null, names of up to 64 characters; lists and maps of them
    TEXT = "text"  # any JSON, bit for bit, but for images in its texts
    OPAQUE = "opaque"  # any JSON, bit for bit: signatures, encrypted reasoning
    PICTURE = "picture"  # purified
    REFERENCE = "reference"  # names of up to 256 characters, neither URL nor base64; lists and maps
    CLOSED = "closed"  # nothing but what is empty, unless it is opened
    OBJECT = "object"  # an object, or a list of objects, with a table of its own
    CONTENT = "content"  # a text, or a list of texts and parts

    # Enum's own is written in Python, and every field of a request is looked up by its kind.
    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a table.

    Attributes:
        owners: Who documents it.
        kind: What it may hold.
        place: The table of the objects in it.
        reason: Why it is closed, as it stands in the refusal; empty where it could hold media.
        values: The only texts that may stand there; None for any of its kind.
    """

    owners: Owner
    kind: FieldKind
    place: "Place | Choice | None" = None
    reason: str = ""
    values: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The table of one kind of object.

    Attributes:
        fields: Field by name.
        folded: The same names as a reader sees them that ignores case, as Go's does.
        required: Fields that have to be there; those of text as strings.
        other: What stands under any other name of up to 64 characters; None where nothing may.
        closed_names: Names that are closed by their form.
    """

    fields: Mapping[str, Field]
    folded: Mapping[str, str]
    required: tuple[str, ...] = ()
    other: Field | None = None
    closed_names: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A table for each value of one field; objects with another value take `other`, or none."""

    key: str
    places: Mapping[str, Place]
    other: Place | None = None


@dataclass(frozen=True, slots=True)
class FieldRules:
    """What is set about fields.

    Attributes:
        is_enforced: Whether anything is refused; if not, it is only noted.
        drops_unknown: Whether unknown fields are taken out in place of a refusal.
        allowed: Places, dotted and without indices, that pass whatever they hold.
        text_images: What the upstream reads out of texts, by `TextImages`.
    """

    is_enforced: bool = True
    drops_unknown: bool = False
    allowed: tuple[str, ...] = ()
    text_images: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings, mode: Mode) -> Self:
        """Takes the rules out of the settings; only a policy that enforces refuses anything."""
        return cls(
            is_enforced=mode is Mode.ENFORCE,
            drops_unknown=settings.unknown_fields is UnknownFields.DROP,
            allowed=settings.allowed_fields,
            text_images=settings.upstream_reads_text_images,
        )


@dataclass(slots=True)
class Findings:
    """What would have been refused, or was taken out.

    Attributes:
        counts: How many, by the code of the refusal; `dropped` for what was taken out.
        names: The first places, without indices.
    """

    counts: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def note(self, verdict: str, place: str) -> None:
        """Counts one more."""
        self.counts[verdict] = self.counts.get(verdict, 0) + 1
        shown = place[:_LONGEST_SHOWN_PLACE]
        if len(self.names) < _MOST_NAMES and shown not in self.names:
            self.names.append(shown)


_Row = tuple[str, Field]


def _row(
    owners: Owner, kind: FieldKind, names: str, place: "Place | Choice | None" = None
) -> list[_Row]:
    return [(name, Field(owners, kind, place)) for name in names.split()]


def _closed(owners: Owner, reason: str, names: str) -> list[_Row]:
    return [(name, Field(owners, FieldKind.CLOSED, reason=reason)) for name in names.split()]


def _place(
    *rows: list[_Row],
    required: str = "",
    other: Field | None = None,
    closed_names: str | None = None,
) -> Place:
    every = [row for group in rows for row in group]
    fields = dict(every)
    if len(fields) < len(every):
        msg = f"a name stands twice in the table of {', '.join(fields)}"
        raise ValueError(msg)
    return Place(
        fields,
        {name.casefold(): name for name in fields},
        tuple(required.split()),
        other,
        re.compile(closed_names) if closed_names else None,
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Where media stand under names of other servers' own, in whatever object.
MEDIA_FIELDS = _names(
    """attachments audio_data audio_url audio_urls audios content_hash file file_data file_id
    file_ids files image image_base64 image_bytes image_data image_embeds image_file image_url
    image_urls images inline_data inlinedata input_audio input_embeds input_image input_images
    media mm_data multi_modal_data multi_modal_uuids multimodal_data pixel_values prompt_embeds
    source urls uuid video video_data video_url video_urls videos"""
)
# Objects of these types are media; LiteLLM puts what an opaque field holds back among the parts.
MEDIA_TYPES = _names(
    """audio audio_url container_upload document file image image_file image_url input_audio
    input_file input_image media video video_url"""
)

_O = Owner
_K = FieldKind
_NOTES = [
    *_row(_O.ANTHROPIC | _O.LITELLM | _O.OPENROUTER, _K.PLAIN, "cache_control"),
    *_row(_O.OPENAI, _K.PLAIN, "prompt_cache_breakpoint"),
    *_row(_O.CLIENTS | _O.OPENROUTER, _K.PLAIN, "index format"),
    *_row(_O.CLIENTS | _O.OPENAI, _K.REFERENCE, "id"),
]
_SIGNATURES = _row(
    _O.ANTHROPIC | _O.GEMINI | _O.OPENROUTER, _K.OPAQUE, "signature thought_signature"
)

_ANNOTATION = _place(
    _row(_O.OPENAI | _O.CLIENTS, _K.PLAIN, "type start_index end_index index"),
    _row(_O.OPENAI, _K.TEXT, "url_citation"),
    _row(_O.CLIENTS, _K.TEXT, "url title cited_text extras text value"),
    _row(_O.OPENAI, _K.REFERENCE, "filename container_id id"),
    _row(_O.OPENAI, _K.REFERENCE, "file_citation container_file_citation file_path"),
    # OpenRouter reads a parsed file out of it again, its pictures included.
    _closed(_O.OPENROUTER, "", "file"),
)
_ANNOTATIONS = _row(
    _O.OPENAI | _O.VLLM | _O.LITELLM | _O.CLIENTS, _K.OBJECT, "annotations", _ANNOTATION
)
_CITATIONS = _row(_O.ANTHROPIC | _O.VLLM | _O.CLIENTS, _K.TEXT, "citations")

_IMAGE_URL = _place(
    _row(_O.OPENAI, _K.PICTURE, "url"),
    _row(_O.OPENAI, _K.PLAIN, "detail"),
    _row(_O.LITELLM, _K.PLAIN, "format video_metadata"),
    _row(_O.SGLANG, _K.PLAIN, "max_dynamic_patch min_dynamic_patch"),
    _row(_O.HOSTS, _K.PLAIN, "min_pixels max_pixels"),
    required="url",
)
_IMAGE = _place(
    _NOTES,
    _row(_O.OPENAI, _K.PLAIN, "type"),
    _row(_O.OPENAI, _K.PICTURE, "image_url", _IMAGE_URL),
    _row(_O.HOSTS, _K.PLAIN, "detail min_pixels max_pixels"),
    _row(_O.SGLANG, _K.PLAIN, "modalities"),
    _closed(_O.OPENAI, "", "text"),  # a part is one thing: servers differ in which of two they read
    required="image_url",
)


def _text(key: str, *rows: list[_Row]) -> Place:
    return _place(
        _NOTES,
        _SIGNATURES,
        _row(_O.OPENAI, _K.PLAIN, "type"),
        _row(_O.OPENAI, _K.TEXT, key),
        *rows,
        required=key,
    )


_TEXT = _text("text", _ANNOTATIONS, _CITATIONS, _row(_O.CLIENTS, _K.OPAQUE, "extras"))
_THOUGHT = _place(
    _row(_O.OPENAI | _O.HOSTS, _K.PLAIN, "type"),
    _row(_O.OPENAI | _O.HOSTS, _K.TEXT, "text"),
)
_THOUGHTS = Choice("type", dict.fromkeys(("text", "summary_text", "reasoning_text"), _THOUGHT))
_REASONING = _place(
    _NOTES,
    _SIGNATURES,
    _row(_O.ANTHROPIC, _K.PLAIN, "type"),
    _row(_O.ANTHROPIC | _O.HOSTS, _K.CONTENT, "thinking", _THOUGHTS),
    _row(_O.SGLANG | _O.CLIENTS | _O.OPENAI, _K.CONTENT, "text reasoning", _THOUGHTS),
    _row(_O.OPENAI, _K.CONTENT, "summary content", _THOUGHTS),
    _row(_O.HOSTS, _K.PLAIN, "closed"),
    _row(_O.ANTHROPIC | _O.OPENAI | _O.OPENROUTER, _K.OPAQUE, "data encrypted_content extras"),
)
_TOOL_REFERENCE = _place(
    _NOTES,
    _row(_O.SGLANG | _O.LITELLM, _K.PLAIN, "type"),
    _row(_O.SGLANG | _O.LITELLM, _K.REFERENCE, "name tool_name"),
)
_PARTS = {
    "text": _TEXT,
    "input_text": _TEXT,
    "output_text": _TEXT,
    "refusal": _text("refusal"),
    "image_url": _IMAGE,
    "tool_reference": _TOOL_REFERENCE,
}
_ASSISTANT_PARTS = _PARTS | dict.fromkeys(
    ("thinking", "reasoning", "redacted_thinking"), _REASONING
)

_CALLED = _place(
    _row(_O.OPENAI, _K.REFERENCE, "name"),
    _row(_O.OPENAI, _K.TEXT, "arguments input"),
    _row(_O.LITELLM | _O.GEMINI, _K.OPAQUE, "provider_specific_fields thought_signature"),
)
_TOOL_CALL = _place(
    _row(_O.OPENAI, _K.PLAIN, "type"),
    _row(_O.OPENAI | _O.VLLM | _O.SGLANG | _O.OLLAMA, _K.PLAIN, "index"),
    # LiteLLM hides Gemini's thought signatures in the ids.
    _row(_O.OPENAI | _O.LITELLM, _K.OPAQUE, "id call_id"),
    _row(_O.OPENAI, _K.OBJECT, "function custom", _CALLED),
    _row(_O.ANTHROPIC | _O.LITELLM, _K.PLAIN, "cache_control caller"),
    _row(_O.LITELLM | _O.GEMINI, _K.OPAQUE, "provider_specific_fields extra_content"),
    _SIGNATURES,
)

_FUNCTION = _place(
    _row(_O.OPENAI, _K.REFERENCE, "name"),
    _row(_O.OPENAI, _K.TEXT, "description parameters"),
    _row(_O.OPENAI, _K.PLAIN, "strict"),
    _row(_O.VLLM | _O.SGLANG, _K.PLAIN, "defer_loading"),
    _row(_O.LITELLM | _O.ANTHROPIC, _K.PLAIN, "eager_input_streaming cache_control"),
    _row(_O.GEMINI | _O.HOSTS, _K.TEXT, "response return returns output_schema"),
    _row(_O.ANTHROPIC, _K.TEXT, "input_schema input_examples"),
    _row(_O.OPENAI, _K.TEXT, "format"),  # a custom tool's grammar
)
_TOOL = _place(
    # Other types are run by the upstream: they fetch what the conversation names.
    [("type", Field(_O.OPENAI, _K.PLAIN, values=_names("function custom")))],
    _row(_O.OPENAI, _K.OBJECT, "function custom", _FUNCTION),
    _row(_O.VLLM | _O.SGLANG | _O.ANTHROPIC, _K.PLAIN, "defer_loading allowed_callers"),
    [row for row in _FUNCTION.fields.items() if row[0] != "defer_loading"],
)
_TOOLS = _row(_O.OPENAI, _K.OBJECT, "tools", _TOOL)

_MESSAGE = [
    *_row(_O.OPENAI, _K.PLAIN, "role"),
    *_row(_O.OPENAI | _O.OLLAMA, _K.REFERENCE, "name tool_name"),
    *_row(_O.OPENAI | _O.LITELLM, _K.OPAQUE, "tool_call_id"),
    *_row(_O.CLIENTS, _K.REFERENCE, "id"),
    *_row(_O.CLIENTS, _K.PLAIN, "type status"),
    *_row(_O.ANTHROPIC | _O.LITELLM, _K.PLAIN, "cache_control is_error"),
    *_row(_O.SGLANG, _K.OBJECT, "tools", _TOOL),
    *_closed(_O.OPENAI, "", "audio"),  # what was once said aloud
]
_ANYBODY = _place(_MESSAGE, _row(_O.OPENAI, _K.CONTENT, "content", Choice("type", _PARTS)))
_ASSISTANT = _place(
    _MESSAGE,
    _ANNOTATIONS,
    _CITATIONS,
    _SIGNATURES,
    _row(_O.OPENAI, _K.CONTENT, "content", Choice("type", _ASSISTANT_PARTS)),
    _row(_O.OPENAI, _K.TEXT, "refusal"),
    _row(_O.VLLM | _O.SGLANG | _O.OLLAMA | _O.LITELLM | _O.OPENROUTER | _O.HOSTS, _K.TEXT,
         "reasoning reasoning_content thinking"),
    _row(_O.OPENROUTER, _K.OPAQUE, "reasoning_details"),
    _row(_O.OPENAI | _O.LITELLM, _K.OPAQUE, "encrypted_content reasoning_items"),
    _row(_O.LITELLM, _K.OBJECT, "thinking_blocks",
         Choice("type", {kind: _REASONING for kind in ("thinking", "redacted_thinking")})),
    _row(_O.LITELLM | _O.GEMINI, _K.OPAQUE, "provider_specific_fields extra_content"),
    _row(_O.OPENAI, _K.OBJECT, "tool_calls", _TOOL_CALL),
    _row(_O.OPENAI, _K.OBJECT, "function_call", _CALLED),
    _row(_O.LITELLM | _O.OPENROUTER, _K.OBJECT, "images", Choice("type", {"image_url": _IMAGE})),
)  # fmt: skip

_PREDICTION = _place(
    _row(_O.OPENAI, _K.PLAIN, "type"),
    _row(_O.OPENAI, _K.CONTENT, "content", Choice("type", _PARTS)),
)
_RESPONSE_FORMAT = _place(
    _row(_O.OPENAI, _K.PLAIN, "type strict"),
    _row(_O.OPENAI, _K.REFERENCE, "name"),
    _row(_O.OPENAI, _K.TEXT, "json_schema schema grammar"),
    _row(_O.VLLM | _O.SGLANG, _K.TEXT, "structures triggers format begin end"),
    _row(_O.HOSTS | _O.LITELLM, _K.TEXT, "value pattern regex response_schema"),
    _row(_O.LITELLM, _K.PLAIN, "enforce_validation"),
)
_DOCUMENT = _place(_row(_O.VLLM | _O.HOSTS, _K.TEXT, "id doc_id title text content contents data"))
_UPSTREAM_RUNS = "it makes the upstream fetch, run or re-template something"

CHAT = _place(
    _row(_O.OPENAI, _K.OBJECT, "messages", Choice("role", {"assistant": _ASSISTANT}, _ANYBODY)),
    _row(_O.OPENAI, _K.REFERENCE, "model user safety_identifier prompt_cache_key"),
    _row(_O.OPENAI, _K.PLAIN,
         """audio frequency_penalty logit_bias logprobs max_completion_tokens max_tokens modalities
         moderation n parallel_tool_calls presence_penalty prompt_cache_options
         prompt_cache_retention reasoning_effort seed service_tier store stream stream_options
         temperature top_logprobs top_p verbosity web_search_options"""),
    _row(_O.OPENAI, _K.TEXT, "stop metadata"),
    _row(_O.OPENAI, _K.OBJECT, "prediction", _PREDICTION),
    _row(_O.OPENAI, _K.OBJECT, "response_format", _RESPONSE_FORMAT),
    _row(_O.OPENAI, _K.OBJECT, "functions", _FUNCTION),
    _row(_O.OPENAI, _K.REFERENCE, "function_call tool_choice"),
    _TOOLS,
    _row(_O.VLLM, _K.PLAIN,
         """add_generation_prompt add_special_tokens allowed_token_ids best_of
         continue_final_message echo guided_decoding_backend ignore_eos include_reasoning
         include_stop_str_in_output length_penalty logprob_token_ids min_p min_tokens priority
         prompt_logprobs repetition_detection repetition_penalty return_token_ids
         return_tokens_as_token_ids skip_special_tokens spaces_between_special_tokens
         stop_token_ids stream_interval thinking_token_budget top_k truncate_prompt_tokens
         truncation_side use_beam_search"""),
    _row(_O.VLLM, _K.TEXT,
         """bad_words guided_choice guided_grammar guided_json guided_regex
         guided_whitespace_pattern structured_outputs"""),
    _row(_O.VLLM | _O.HOSTS, _K.OBJECT, "documents", _DOCUMENT),
    _row(_O.VLLM | _O.SGLANG, _K.OBJECT, "chat_template_kwargs", _place(
        _closed(_O.VLLM, "it takes the place of what the server or the request says",
                "chat_template documents messages tokenize tools"),
        other=Field(_O.VLLM | _O.SGLANG, _K.PLAIN))),
    _row(_O.VLLM | _O.SGLANG | _O.OPENROUTER, _K.REFERENCE, "request_id session_id cache_salt"),
    _row(_O.SGLANG, _K.PLAIN,
         """data_parallel_rank disagg_prefill_dp_rank images_config max_dynamic_patch
         min_dynamic_patch no_stop_trim return_hidden_states routed_dp_rank separate_reasoning
         stream_reasoning task use_audio_in_video"""),
    _row(_O.SGLANG, _K.TEXT, "ebnf regex stop_regex"),
    _row(_O.SGLANG, _K.REFERENCE, "rid extra_key ngram_corpus_id"),
    _row(_O.OLLAMA, _K.PLAIN, "_debug_render_only keep_alive options think"),
    _row(_O.OLLAMA, _K.TEXT, "format"),
    _row(_O.OLLAMA | _O.OPENROUTER, _K.PLAIN, "reasoning"),
    _row(_O.LLAMA_CPP, _K.PLAIN, "lora reasoning_format response_fields samplers"),
    _row(_O.LLAMA_CPP, _K.TEXT, "dry_sequence_breakers grammar grammar_triggers json_schema"),
    _row(_O.OPENROUTER, _K.PLAIN, "debug image_config provider route usage"),
    _row(_O.OPENROUTER, _K.REFERENCE, "models"),
    _row(_O.ANTHROPIC | _O.LITELLM, _K.PLAIN, "context_management output_config thinking"),
    _row(_O.GEMINI, _K.PLAIN, "safety_settings"),
    _row(_O.HOSTS, _K.PLAIN,
         """context_length_exceeded_behavior exclude_domains include_domains prompt_mode
         search_domain_filter search_mode search_options search_recency_filter
         translation_options"""),
    _row(_O.HOSTS, _K.TEXT, "guideline tool_prompt"),
    _row(_O.HOSTS, _K.REFERENCE, "adapter_id safety_model"),
    _row(_O.LITELLM, _K.PLAIN,
         """allow_client_keepalive_override allowed_model_region allowed_openai_params cache caching
         client_side_timeout cooldown_time default_api_key_rpm_limit default_api_key_tpm_limit
         disable_add_transform_inline_image_block drop_params enable_json_schema_validation
         enable_prompt_caching enable_tag_filtering ensure_alternating_roles force_timeout
         include_server_side_tool_invocations itpm keepalive_seconds log_client_error_tracebacks
         max_agentic_loops max_budget max_fallbacks max_file_size_mb max_parallel_requests
         max_retries merge_reasoning_content_in_choices no-log num_retries order otpm
         output_vector_size request_timeout retry_strategy rpm stream_chunk_size stream_timeout
         stream_timeout_by_service_tier supports_system_message tags timeout
         timeout_by_service_tier tpm ttl turn_off_message_logging use_chat_completions_api verbose
         weight"""),
    _row(_O.LITELLM, _K.REFERENCE, "id litellm_session_id litellm_trace_id"),
    _closed(_O.LITELLM, "a gateway keeps it to itself",
            """acompletion aembedding aimg_generation allm_passthrough_route async_call
            atext_completion attempted_targets bedrock_tags budget_duration cache_key
            caching_groups complete_response completion_call_id configurable_clientside_auth_params
            data_residency fallback_depth fastest_response fireworks_forward_user_id logger_fn
            model_alias_map model_config model_file_id_mapping preset_cache_key
            provider_affinity_header rust stream_response tag_regex text_completion tiered_pricing
            use_client use_in_pass_through use_litellm_proxy use_xai_oauth"""),
    _closed(_O.LITELLM, "a gateway merges it into the request after it was checked",
            """additional_drop_params custom_prompt_dict extra_body extra_headers extra_query
            headers litellm_params metadata_override model_info model_list optional_params
            provider_specific_header proxy_server_request request_body secret_fields
            user_config"""),
    _closed(_O.LITELLM, "a gateway sends the request elsewhere, or something in its place",
            """adapter context_window_fallback_dict context_window_fallbacks
            content_policy_fallbacks default_fallbacks fallbacks mock_response mock_timeout
            mock_tool_calls retry_policy routing_strategy silent_model"""),
    _closed(_O.LITELLM, "a gateway puts its text into the conversation, unpurified",
            """assistant_continue_message bos_token eos_token final_prompt_value
            initial_prompt_value prompt prompt_environment prompt_id prompt_label
            prompt_variables prompt_version roles user_continue_message"""),
    _closed(_O.LITELLM | _O.HOSTS, "it says where the upstream sends the request, and as whom",
            """api_base api_key api_version azure base_model base_url client client_id
            client_secret custom_llm_provider default_headers deployment deployment_id
            hf_model_name organization region_name shared_session ssl_verify tenant_id"""),
    _closed(_O.LITELLM, "it switches guardrails, or chooses tools that the gateway runs",
            "guardrail_config guardrails policies mcp_servers search_tool_name vector_store_ids"),
    _closed(_O.VLLM | _O.SGLANG, _UPSTREAM_RUNS,
            """bootstrap_host bootstrap_port bootstrap_room chat_template custom_logit_processor
            custom_params ec_transfer_params kv_transfer_params logits_processors lora_path
            lora_request media_io_kwargs mm_processor_kwargs disaggregated_params session_params
            vllm_xargs"""),
    _closed(_O.SGLANG | _O.HOSTS, "it takes the place of the conversation that was checked",
            "input_ids prompt_token_ids cached_content preset previous_response_id conversation"),
    _closed(_O.HOSTS | _O.OPENROUTER, _UPSTREAM_RUNS,
            """compound_custom container data_sources enhancements google plugins
            search_parameters transforms"""),
    # What LiteLLM keeps to itself: credentials, telemetry, routers, prices, and its own marks.
    closed_names=r"_.+|(litellm|aws|azure|vertex|anthropic|openai|s3|gcs|token_exchange|github_copilot"
    r"|langfuse|langsmith|arize|dd|newrelic|signoz|posthog|wandb|weave|humanloop|auto_router"
    r"|complexity_router|adaptive_router|quality_router|switchyard_router|code_interpreter"
    r"|websearch|headroom|mock|gigachat|chatgpt|regional)_.*|.*_cost(_.*)?|.*cost_per_.*",
)  # fmt: skip
