"""Conversations with a picture or a URL planted somewhere, and a judge of what arrives of it.

The judge knows nothing of the service's tables: for each protocol it has its own list, by hand, of
the places that hold text or what nobody reads. A plant that is found anywhere else went round the
guard. The judge of chats is here, that of responses in `planted_responses.py`.
"""

import base64
import copy
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from hypothesis import strategies as st

from codefend.service.protocols.base import Protocol
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from codefend.service.protocols.fields import MEDIA_FIELDS, Choice, Place
from tests.service.pictures import png

PICTURE = base64.b64encode(png(8, 8, seed=77)).decode()
# What no other picture has, and what a purified one has not.
PICTURE_MARK = PICTURE[64:124]
URL_MARK = "planted.example"
DATA_URL = f"data:image/png;base64,{PICTURE}"
TEXT_PLANTS = (
    PICTURE,
    DATA_URL,
    f"data:;base64,{PICTURE}",
    f"DATA:image/webp;base64,{PICTURE}",
    f"![look]( <{DATA_URL}>)",
    f"see {DATA_URL}",
    f"https://{URL_MARK}/a.png",
    f"//{URL_MARK}/a.png",
    f" \\\\{URL_MARK}\\a.png",
    f"http:/\t/{URL_MARK}/a",
    f"s3://{URL_MARK}/a",
    f"![look](https://{URL_MARK}/a.png)",
)
LONG = "word " * 4000
INVENTED = (
    "x",
    "img",
    "picture",
    "payload",
    "b64",
    "attachment",
    "überraschung",
    "a b",
    "",
    "_",
    "0",
)
GATEWAYS = (
    "extra_body", "extra_query", "extra_headers", "fallbacks", "context_window_fallbacks",
    "content_policy_fallbacks", "litellm_params", "litellm_metadata", "mock_response", "api_base",
    "base_url", "api_key", "proxy_server_request", "model_list", "prompt_variables", "headers",
    "user_continue_message", "chat_template", "kv_transfer_params", "custom_logit_processor",
    "bootstrap_host", "logits_processors", "mm_processor_kwargs", "multi_modal_data", "images",
    "image_data", "input_ids", "documents", "data_sources", "plugins", "guardrails", "metadata",
    "source", "inline_data", "file", "input", "prompt", "contents", "parts", "system",
)  # fmt: skip
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "strict": True,
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}  # fmt: skip
IMAGE = {"type": "image_url", "image_url": {"url": DATA_URL.replace(PICTURE, base64.b64encode(
    png(8, 8, seed=78)).decode()), "detail": "low"}}  # fmt: skip
CHATS = (
    {"messages": [{"role": "user", "content": "hi"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, IMAGE]}],
     "temperature": 0.5, "user": "u", "stop": ["a"], "logit_bias": {"1": 2}},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                  {"role": "assistant", "content": None, "tool_calls": [CALL]},
                  {"role": "tool", "tool_call_id": "call_1", "content": "r"}],
     "tools": [TOOL], "tool_choice": "auto"},
    {"messages": [{"role": "user", "content": "q"},
                  {"role": "assistant", "content": [{"type": "text", "text": "a"},
                                                    {"type": "thinking", "thinking": "t"}],
                   "reasoning_details": [{"type": "reasoning.text", "text": "t"}],
                   "provider_specific_fields": {"a": {"b": 1}}, "refusal": None,
                   "annotations": [{"type": "url_citation", "url_citation": {"title": "t"}}],
                   "images": [IMAGE], "thinking_blocks": [{"type": "thinking", "thinking": "t"}]},
                  {"role": "user", "content": ["q", IMAGE]}]},
    {"messages": [{"role": "user", "content": "q"}], "metadata": {"a": {"b": "c"}},
     "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
     "prediction": {"type": "content", "content": [{"type": "text", "text": "p"}]},
     "stream_options": {"include_usage": True}, "reasoning": {"effort": "low"}},
    {"messages": [{"role": "developer", "content": [{"type": "text", "text": "s"}]},
                  {"role": "user", "name": "n", "content": "q", "cache_control": {"type": "x"}}],
     "functions": [TOOL["function"]], "function_call": {"name": "f"},
     "chat_template_kwargs": {"a": 1}, "modalities": ["text"], "guided_json": {"a": "b"}},
)  # fmt: skip


def _known_names(place, seen):
    """All names of the tables, so that every row is planted in; the judge does not see them."""
    if isinstance(place, Choice):
        places = [*place.places.values(), place.other, place.absent, place.matching]
    else:
        places = [place]
    for each in places:
        if isinstance(each, Place) and id(each) not in seen:
            seen.add(id(each))
            yield from each.fields
            for field in each.fields.values():
                yield from _known_names(field.place, seen)


@dataclass(frozen=True)
class Ground:
    """Where it is planted.

    Attributes:
        protocol: Whose requests they are.
        documents: Such requests.
        may_stand: The judge: whether a text may stand at these names, in these objects.
    """

    protocol: Protocol
    documents: Sequence[dict]
    may_stand: Callable

    @cached_property
    def known(self):
        """The names of the protocol's tables."""
        return tuple(sorted({*_known_names(self.protocol.table, set()), *MEDIA_FIELDS}))


@st.composite
def planted_requests(draw, ground):
    """A request with one or two plants in it."""
    # Hypothesis chooses seeds alone: it favours what it has seen elsewhere, and would plant there.
    chance = random.Random(draw(st.integers(0, 2**64 - 1)))
    document = copy.deepcopy(chance.choice(ground.documents)) | {"model": "m"}
    if chance.random() < 0.5:
        document["stream"] = chance.random() < 0.7
    if chance.random() < 0.05:  # a decode process reads it
        field = ground.protocol.conversation
        said = document[field] if isinstance(document[field], list) else []
        document[field] = [{"role": "user", "content": LONG}, *said]
    for _ in range(chance.choice((1, 1, 1, 2))):
        holders = [document] if chance.random() < 0.3 else list(_holders(document))
        _plant(chance, chance.choice(holders), ground.known)
    return document


def _holders(value):
    if isinstance(value, dict | list):
        yield value
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _holders(entry)


def _plant(chance, holder, known):
    value = _something(chance, known)
    if isinstance(holder, list):
        index = chance.randrange(len(holder) + 1)
        if chance.random() < 0.5 or index == len(holder):
            holder.insert(index, value)
        else:
            holder[index] = value
        return
    kind = chance.random()
    if kind < 0.25 and holder:
        holder[chance.choice(list(holder))] = value
    elif kind < 0.5:
        holder[chance.choice(known)] = value
    elif kind < 0.75:
        holder[chance.choice(GATEWAYS)] = value
    elif kind < 0.85:
        holder[chance.choice(INVENTED)] = value
    elif kind < 0.93:
        holder[chance.choice(TEXT_PLANTS)] = chance.choice((value, 1, None, "", True))
    else:
        holder[chance.choice(known).title()] = value


def _something(chance, known, depth=0):
    """A plant: a text, an object that some API takes for an image, or either deep inside."""
    text = chance.choice(TEXT_PLANTS)
    kind = chance.random()
    if kind < 0.4 or depth > 3:
        return text
    if kind < 0.7:
        return chance.choice(
            (
                {"type": "image_url", "image_url": {"url": text}},
                {"type": "image_url", "image_url": text},
                {"type": "input_image", "image_url": text},
                {"type": "image", "source": {"type": "base64", "data": text}},
                {"type": "image", "source": {"type": "url", "url": text}},
                {"type": "text", "text": "t", chance.choice(known): text},
                {"type": "thinking", "thinking": "t", chance.choice(known): text},
                {"type": "input_text", "text": "t", chance.choice(known): text},
                {"type": "item_reference", "id": text},
                {"type": "image_generation_call", "id": "i", "result": text},
                {"type": "file", "file": {"file_data": text}},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": text}}]},
                {"role": "assistant", chance.choice(known): text},
                {"inline_data": {"mime_type": "image/png", "data": text}},
                {"url": text},
            )
        )
    inner = _something(chance, known, depth + 1)
    name = chance.choice((*known, *INVENTED, *GATEWAYS))
    return chance.choice(
        ([inner], {name: inner}, [{name: inner}], {text: inner}, {name: 1, text: 0})
    )


# The judge.

_IN_MARKDOWN = re.compile(r"!\[[^\]]*\]\s*\(\s*<?\s*data:", re.IGNORECASE)
_ANY_JSON = {
    "stop", "metadata", "bad_words", "guided_choice", "guided_grammar", "guided_json",
    "guided_regex", "guided_whitespace_pattern", "structured_outputs", "ebnf", "regex",
    "stop_regex", "format", "dry_sequence_breakers", "grammar", "grammar_triggers", "json_schema",
    "guideline", "tool_prompt",
}  # fmt: skip
_OPAQUE = {"signature", "thought_signature", "provider_specific_fields", "extra_content"}
_THOUGHTS = {"thinking", "reasoning", "redacted_thinking"}
_OF_FUNCTIONS = {
    "description", "parameters", "response", "return", "returns", "output_schema", "input_schema",
    "input_examples", "format",
}  # fmt: skip
_OF_FORMATS = {
    "json_schema", "schema", "grammar", "structures", "triggers", "format", "begin", "end", "value",
    "pattern", "regex", "response_schema",
}  # fmt: skip
_OF_DOCUMENTS = {"id", "doc_id", "title", "text", "content", "contents", "data"}
_OF_ANNOTATIONS = {"url_citation", "url", "title", "cited_text", "extras", "text", "value"}
_OF_ASSISTANTS = _OPAQUE | {
    "refusal", "reasoning", "reasoning_content", "thinking", "reasoning_details",
    "encrypted_content", "reasoning_items", "citations",
}  # fmt: skip


def complaints(document, may_stand=None):
    """What is wrong with a document that arrived: places of plants where none belongs.

    Args:
        document: The body that the upstream got, parsed.
        may_stand: The judge; that of chats where there is none.
    """
    may_stand = may_stand or _may_stand
    found = []
    for names, holders, text in _texts(document, [], []):
        is_marked = PICTURE_MARK in text or URL_MARK in text
        if is_marked and not may_stand(names, holders):
            found.append(f"{'.'.join(name[:40] for name in names)}: {text[:60]!r}")
        elif PICTURE_MARK in text and _IN_MARKDOWN.search(text) and not _is_opaque(names):
            found.append(f"{'.'.join(name[:40] for name in names)}: an image in a text")
    return found


def num_plants(document):
    """How many plants are in a document."""
    texts = (text for _, _, text in _texts(document, [], []))
    return sum(PICTURE_MARK in text or URL_MARK in text for text in texts)


def _texts(value, names, holders):
    """All texts, names included: with the names on the way, and the object that each is in."""
    if isinstance(value, str):
        yield names, holders, value
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry, names, holders)
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield [*names, name], [*holders, value], name
            yield from _texts(entry, [*names, name], [*holders, value])


def _is_opaque(names):
    return bool(
        {*_OPAQUE, "id", "call_id", "tool_call_id", "reasoning_details", "encrypted_content",
         "reasoning_items", "data", "extras", "caller_id"} & set(names)
    )  # fmt: skip


def _may_stand(names, holders):  # noqa: PLR0911 - one line a place
    match names:
        case ["messages", *rest] if rest:
            return _in_message(rest, holders[1:])
        case ["tools", *rest] | ["functions", *rest]:
            return _in_tool(rest)
        case ["prediction", "content"]:
            return True
        case ["prediction", "content", *rest]:
            return _in_part(rest, holders[2:], by_assistant=False)
        case ["response_format", name, *_]:
            return name in _OF_FORMATS
        case ["documents", name, *_]:
            return name in _OF_DOCUMENTS
        case [name, *_]:
            return name in _ANY_JSON
    return False


def _in_message(names, holders):  # noqa: PLR0911 - one line a place
    by_assistant = holders[0].get("role") == "assistant"
    match names:
        case ["content"] | ["tool_call_id", *_]:
            return True
        case ["content", *rest]:
            return _in_part(rest, holders[1:], by_assistant=by_assistant)
        case ["tools", *rest]:
            return _in_tool(rest)
        case ["tool_calls", *rest] if by_assistant:
            return _in_call(rest)
        case ["function_call", *rest] if by_assistant:
            return _in_called(rest)
        case ["annotations", name, *_] if by_assistant:
            return name in _OF_ANNOTATIONS
        case ["thinking_blocks", *rest] if by_assistant and rest:
            return str(holders[1].get("type")) in _THOUGHTS and _in_part(
                rest, holders[1:], by_assistant=True
            )
        case [name, *_]:
            return by_assistant and name in _OF_ASSISTANTS
    return False


def _in_part(names, holders, *, by_assistant):
    kind, name = str(holders[0].get("type")), names[0]
    if kind in {"text", "input_text", "output_text"}:
        if names[:1] == ["annotations"]:
            return len(names) > 1 and names[1] in _OF_ANNOTATIONS
        return name in {"text", "citations", "extras"} | _OPAQUE
    if kind == "refusal":
        return name == "refusal" or name in _OPAQUE
    if kind in _THOUGHTS and by_assistant:
        return name in _OPAQUE | {
            "thinking", "text", "reasoning", "summary", "content", "data", "encrypted_content",
            "extras",
        }  # fmt: skip
    return False


def _in_call(names):
    match names:
        case ["function" | "custom", *rest]:
            return _in_called(rest)
        case [name, *_]:
            return name in _OPAQUE | {"id", "call_id"}
    return False


def _in_called(names):
    return bool(names) and names[0] in {"arguments", "input"} | _OPAQUE


def _in_tool(names):
    match names:
        case ["function" | "custom", name, *_]:
            return name in _OF_FUNCTIONS
        case [name, *_]:
            return name in _OF_FUNCTIONS
    return False


CHAT = Ground(CHAT_COMPLETIONS, CHATS, _may_stand)


def as_body(document):
    """A document as a client sends it."""
    return json.dumps(document).encode()
