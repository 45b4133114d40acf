"""The fields of a request: whose each is, of what kind, and how tables of them are written.

An allowlist: what stands in no table does not pass. `service/decode/walk.py` applies the tables;
each protocol has its own, in its module, beside what is common here. Sources: OpenAI's and
Anthropic's API references and the types of their Python clients; `ChatCompletionRequest` of vLLM
and of SGLang; Ollama's `openai` package; LiteLLM's `completion()`, `all_litellm_params` and what
its proxy reads from a body.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Flag, StrEnum, auto

__all__ = [
    "ANNOTATIONS",
    "CALLED",
    "CITATIONS",
    "FUNCTION",
    "GATEWAY",
    "MEDIA_FIELDS",
    "MEDIA_TYPES",
    "NOTES",
    "REASONING",
    "SIGNATURES",
    "TEXT",
    "THOUGHTS",
    "TOOL_REFERENCE",
    "UPSTREAM_RUNS",
    "Choice",
    "Field",
    "FieldKind",
    "FieldRules",
    "Findings",
    "Owner",
    "Place",
    "closed",
    "names",
    "rows",
    "table",
    "text_part",
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
    PICTURE = "picture"  # purified: a URL, or an object with one
    PICTURE_SOURCE = "picture_source"  # purified: base64 or a URL, in a source object of Anthropic
    REFERENCE = "reference"  # names of up to 256 characters, neither URL nor base64; lists and maps
    STATE = "state"  # an id of what the upstream keeps: one that this service gave to the caller
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
        values: The only words that may stand there, `true` and `false` among them, beside objects
            where there are such; None for any of its kind.
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
    """A table for each value of one field.

    Attributes:
        key: The field.
        places: Table by value.
        other: The table of objects with another value; where there is none, they are refused.
        absent: The table of objects without that field; `other` where there is none.
        pattern: What values take the table `matching`, where they stand in `places` under no name.
        matching: That table.
        reason: Why other values are refused, for the refusal; empty where they could be media.
    """

    key: str
    places: Mapping[str, Place]
    other: Place | None = None
    absent: Place | None = None
    pattern: re.Pattern[str] | None = None
    matching: Place | None = None
    reason: str = ""

    def find(self, value: object) -> Place | None:
        """The table for a value of the field; None where it has none."""
        if value is None:
            return self.absent or self.other
        if not isinstance(value, str):
            return self.other
        place = self.places.get(value)
        if place is None and self.pattern is not None and self.pattern.fullmatch(value):
            place = self.matching
        return place or self.other


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


def rows(
    owners: Owner, kind: FieldKind, names: str, place: "Place | Choice | None" = None
) -> list[_Row]:
    """Rows of one kind.

    Args:
        owners: Who documents them.
        kind: What they may hold.
        names: They, between white space.
        place: The table of the objects in them.
    """
    return [(name, Field(owners, kind, place)) for name in names.split()]


def closed(owners: Owner, reason: str, names: str) -> list[_Row]:
    """Rows of closed fields, with the reason; an empty one says that they could hold media."""
    return [(name, Field(owners, FieldKind.CLOSED, reason=reason)) for name in names.split()]


def table(
    *rows: list[_Row],
    required: str = "",
    other: Field | None = None,
    closed_names: str | None = None,
    base: Place | None = None,
) -> Place:
    """A table of these rows.

    Args:
        rows: Its fields.
        required: Names that have to be there, between white space.
        other: What stands under any other name.
        closed_names: A pattern of names that are closed.
        base: A table whose rows hold too, where no row here has their name.

    Raises:
        ValueError: A name stands twice.
    """
    every = [row for group in rows for row in group]
    fields = dict(every)
    if len(fields) < len(every):
        msg = f"a name stands twice in the table of {', '.join(fields)}"
        raise ValueError(msg)
    pattern = re.compile(closed_names) if closed_names else None
    if base is not None:
        fields = {**base.fields, **fields}
        pattern = pattern or base.closed_names
    folded = {name.casefold(): name for name in fields}
    return Place(fields, folded, tuple(required.split()), other, pattern)


def names(text: str) -> frozenset[str]:
    """Names between white space."""
    return frozenset(text.split())


# Where media stand under names of other servers' own, in whatever object.
MEDIA_FIELDS = names(
    """attachments audio_data audio_url audio_urls audios content_hash file file_data file_id
    file_ids files image image_base64 image_bytes image_data image_embeds image_file image_url
    image_urls images inline_data inlinedata input_audio input_embeds input_image input_images
    media mm_data multi_modal_data multi_modal_uuids multimodal_data pixel_values prompt_embeds
    source urls uuid video video_data video_url video_urls videos"""
)
# Objects of these types are media; LiteLLM puts what an opaque field holds back among the parts.
MEDIA_TYPES = names(
    """audio audio_url container_upload document file image image_file image_url input_audio
    input_file input_image media video video_url"""
)

_O = Owner
_K = FieldKind
NOTES = [
    *rows(_O.ANTHROPIC | _O.LITELLM | _O.OPENROUTER, _K.PLAIN, "cache_control"),
    *rows(_O.OPENAI, _K.PLAIN, "prompt_cache_breakpoint"),
    *rows(_O.CLIENTS | _O.OPENROUTER, _K.PLAIN, "index format"),
    *rows(_O.CLIENTS | _O.OPENAI, _K.REFERENCE, "id"),
]
SIGNATURES = rows(
    _O.ANTHROPIC | _O.GEMINI | _O.OPENROUTER, _K.OPAQUE, "signature thought_signature"
)

_ANNOTATION = table(
    rows(_O.OPENAI | _O.CLIENTS, _K.PLAIN, "type start_index end_index index"),
    rows(_O.OPENAI, _K.TEXT, "url_citation"),
    rows(_O.CLIENTS, _K.TEXT, "url title cited_text extras text value"),
    rows(_O.OPENAI, _K.REFERENCE, "filename container_id id"),
    rows(_O.OPENAI, _K.REFERENCE, "file_citation container_file_citation file_path"),
    # OpenRouter reads a parsed file out of it again, its pictures included.
    closed(_O.OPENROUTER, "", "file"),
)
ANNOTATIONS = rows(
    _O.OPENAI | _O.VLLM | _O.LITELLM | _O.CLIENTS, _K.OBJECT, "annotations", _ANNOTATION
)
CITATIONS = rows(_O.ANTHROPIC | _O.VLLM | _O.CLIENTS, _K.TEXT, "citations")


def text_part(key: str, *more: list[_Row]) -> Place:
    """The table of a part of a message that holds a text under this name."""
    return table(
        NOTES,
        SIGNATURES,
        rows(_O.OPENAI, _K.PLAIN, "type"),
        rows(_O.OPENAI, _K.TEXT, key),
        *more,
        required=key,
    )


TEXT = text_part("text", ANNOTATIONS, CITATIONS, rows(_O.CLIENTS, _K.OPAQUE, "extras"))
_THOUGHT = table(
    rows(_O.OPENAI | _O.HOSTS, _K.PLAIN, "type"),
    rows(_O.OPENAI | _O.HOSTS, _K.TEXT, "text"),
)
THOUGHTS = Choice("type", dict.fromkeys(("text", "summary_text", "reasoning_text"), _THOUGHT))
REASONING = table(
    NOTES,
    SIGNATURES,
    rows(_O.ANTHROPIC, _K.PLAIN, "type"),
    rows(_O.ANTHROPIC | _O.HOSTS, _K.CONTENT, "thinking", THOUGHTS),
    rows(_O.SGLANG | _O.CLIENTS | _O.OPENAI, _K.CONTENT, "text reasoning", THOUGHTS),
    rows(_O.OPENAI, _K.CONTENT, "summary content", THOUGHTS),
    rows(_O.HOSTS, _K.PLAIN, "closed"),
    rows(_O.ANTHROPIC | _O.OPENAI | _O.OPENROUTER, _K.OPAQUE, "data encrypted_content extras"),
)
TOOL_REFERENCE = table(
    NOTES,
    rows(_O.SGLANG | _O.LITELLM, _K.PLAIN, "type"),
    rows(_O.SGLANG | _O.LITELLM, _K.REFERENCE, "name tool_name"),
)
CALLED = table(
    rows(_O.OPENAI, _K.REFERENCE, "name"),
    rows(_O.OPENAI, _K.TEXT, "arguments input"),
    rows(_O.LITELLM | _O.GEMINI, _K.OPAQUE, "provider_specific_fields thought_signature"),
)

FUNCTION = table(
    rows(_O.OPENAI, _K.REFERENCE, "name"),
    rows(_O.OPENAI, _K.TEXT, "description parameters"),
    rows(_O.OPENAI, _K.PLAIN, "strict"),
    rows(_O.VLLM | _O.SGLANG, _K.PLAIN, "defer_loading"),
    rows(_O.LITELLM | _O.ANTHROPIC, _K.PLAIN, "eager_input_streaming cache_control"),
    rows(_O.GEMINI | _O.HOSTS, _K.TEXT, "response return returns output_schema"),
    rows(_O.ANTHROPIC, _K.TEXT, "input_schema input_examples"),
    rows(_O.OPENAI, _K.TEXT, "format"),  # a custom tool's grammar
)

UPSTREAM_RUNS = "it makes the upstream fetch, run or re-template something"
# What LiteLLM, as an upstream, reads from a body of any protocol.
GATEWAY = table(
    rows(_O.LITELLM, _K.PLAIN,
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
    rows(_O.LITELLM, _K.REFERENCE, "id litellm_session_id litellm_trace_id"),
    closed(_O.LITELLM, "a gateway keeps it to itself",
            """acompletion aembedding aimg_generation allm_passthrough_route async_call
            atext_completion attempted_targets bedrock_tags budget_duration cache_key
            caching_groups complete_response completion_call_id configurable_clientside_auth_params
            data_residency fallback_depth fastest_response fireworks_forward_user_id logger_fn
            model_alias_map model_config model_file_id_mapping preset_cache_key
            provider_affinity_header rust stream_response tag_regex text_completion tiered_pricing
            use_client use_in_pass_through use_litellm_proxy use_xai_oauth"""),
    closed(_O.LITELLM, "a gateway merges it into the request after it was checked",
            """additional_drop_params custom_prompt_dict extra_body extra_headers extra_query
            headers litellm_params metadata_override model_info model_list optional_params
            provider_specific_header proxy_server_request request_body secret_fields
            user_config"""),
    closed(_O.LITELLM, "a gateway sends the request elsewhere, or something in its place",
            """adapter context_window_fallback_dict context_window_fallbacks
            content_policy_fallbacks default_fallbacks fallbacks mock_response mock_timeout
            mock_tool_calls retry_policy routing_strategy silent_model"""),
    closed(_O.LITELLM, "a gateway puts its text into the conversation, unpurified",
            """assistant_continue_message bos_token eos_token final_prompt_value
            initial_prompt_value prompt prompt_environment prompt_id prompt_label
            prompt_variables prompt_version roles user_continue_message"""),
    closed(_O.LITELLM | _O.HOSTS, "it says where the upstream sends the request, and as whom",
            """api_base api_key api_version azure base_model base_url client client_id
            client_secret custom_llm_provider default_headers deployment deployment_id
            hf_model_name organization region_name shared_session ssl_verify tenant_id"""),
    closed(_O.LITELLM, "it switches guardrails, or chooses tools that the gateway runs",
            "guardrail_config guardrails policies mcp_servers search_tool_name vector_store_ids"),
    # What LiteLLM keeps to itself: credentials, telemetry, routers, prices, and its own marks.
    closed_names=r"_.+|(litellm|aws|azure|vertex|anthropic|openai|s3|gcs|token_exchange|github_copilot"
    r"|langfuse|langsmith|arize|dd|newrelic|signoz|posthog|wandb|weave|humanloop|auto_router"
    r"|complexity_router|adaptive_router|quality_router|switchyard_router|code_interpreter"
    r"|websearch|headroom|mock|gigachat|chatgpt|regional)_.*|.*_cost(_.*)?|.*cost_per_.*",
)  # fmt: skip
