"""Which fields of Anthropic's messages pass, and what becomes of the pictures in them."""

import base64
import json
from pathlib import Path

import anthropic.types
import anthropic.types.beta
import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsStreaming as BetaParams
from anthropic.types.message_create_params import MessageCreateParamsStreaming as Params

from codefend.service.decode.chat import ChatLimits, open_chat
from codefend.service.errors import RequestRefused
from codefend.service.forward.completion import ChatBody
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from codefend.service.protocols.fields import MEDIA_FIELDS, FieldKind, FieldRules
from codefend.service.protocols.messages import MESSAGES
from codefend.service.protocols.messages_table import MESSAGES_TABLE
from tests.service.decode.test_table import all_places, lacking

LIMITS = ChatLimits(max_images=4, max_answer_tokens=100, max_choices=1)
PIC = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(120))).decode()
PURIFIED = base64.b64encode(b"purified").decode()
URL = f"data:image/png;base64,{PIC}"
REMOTE = "https://pictures.example/a.png"
BASE64 = {"type": "base64", "media_type": "image/jpeg", "data": PIC}
IMAGE = {"type": "image", "source": BASE64}
OUT = {"type": "base64", "media_type": "image/png", "data": PURIFIED}
TEXT = {"type": "text", "text": "x"}


def opened(document, **rules):
    return open_chat(json.dumps(document).encode(), MESSAGES, LIMITS, None, FieldRules(**rules))


def forwarded(document, **rules):
    """What goes out, with every picture purified."""
    parts = opened(document, **rules)
    url = f"data:image/png;base64,{PURIFIED}".encode()
    images = [(url, image.is_source) for image in parts.images]
    return json.loads(ChatBody(MESSAGES, parts.fragments, images, parts.has_model).body("m"))


def refusal_of(document, **rules):
    with pytest.raises(RequestRefused) as refusal:
        opened(document, **rules)
    return refusal.value


def ask(*messages, **fields):
    return {"model": "m", "max_tokens": 9, "messages": list(messages), **fields}


def user(*content):
    return {"role": "user", "content": list(content)}


def assistant(*content):
    return {"role": "assistant", "content": list(content)}


def result(*content):
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": list(content)}


def document_of(**source):
    return {"type": "document", "source": source, "title": "t"}


# What the table lacks of the client's types: each is closed on purpose.
CLOSED_TOOLS = {
    *(f"web_search_{day}" for day in (20250305, 20260209, 20260318)),
    *(f"web_fetch_{day}" for day in (20250910, 20260209, 20260309, 20260318)),
    *(f"code_execution_{day}" for day in (20250522, 20250825, 20260120, 20260521)),
}
CLOSED_BETA_TOOLS = {"advisor_20260301", "mcp_toolset"} | CLOSED_TOOLS
BLOCKS = {f"messages({role}).content" for role in ("user", "assistant")}
CLOSED_BLOCKS = {
    f"{blocks}{name}"
    for blocks in BLOCKS
    for name in (
        "(container_upload)",
        *(f"{place}(document).source({kind})"
          for place in ("", "(tool_result).content", "(web_fetch_tool_result).content.content")
          for kind in ("base64", "url")),
    )
}  # fmt: skip
ADDITIONS = {
    f"messages({role}).content{inside}(tool_addition).tool"
    for role, inside in (
        ("system", ""), ("user", ""), ("assistant", ""),
        ("user", "(compaction).tool_changes"), ("assistant", "(compaction).tool_changes"),
    )
}  # fmt: skip
CLOSED_ADDITIONS = {
    f"{place}{name}"
    for place in ADDITIONS
    for name in (
        "(mcp_tool_reference)",
        "(mcp_toolset_reference)",
        *(f"(tool_definition).definition({tool})" for tool in CLOSED_BETA_TOOLS),
    )
}
# Names of the client's own: a header, and a word that Python reserves.
OWN_NAMES = {"betas", *(f"{blocks}(fallback).from_" for blocks in BLOCKS)}


@pytest.mark.parametrize("kind", [Params, anthropic.types.MessageCountTokensParams])
def test_the_table_has_every_field_of_anthropics_requests_but_what_is_closed(kind):
    expected = {f"tools({name})" for name in CLOSED_TOOLS} | CLOSED_BLOCKS
    assert set(lacking(kind, MESSAGES_TABLE)) == expected


@pytest.mark.parametrize("kind", [BetaParams, anthropic.types.beta.MessageCountTokensParams])
def test_the_table_has_every_field_of_its_betas_but_what_is_closed(kind):
    expected = {f"tools({name})" for name in CLOSED_BETA_TOOLS} | CLOSED_BLOCKS
    assert set(lacking(kind, MESSAGES_TABLE)) == expected | CLOSED_ADDITIONS | OWN_NAMES


def test_the_documentation_names_every_field():
    text = (Path(__file__).parents[3] / "docs" / "upstreams.md").read_text()
    assert [name for name in MESSAGES_TABLE.fields if f"`{name}`" not in text] == []


def test_every_row_under_the_name_of_a_medium_is_closed_or_has_a_table_of_its_own():
    texts = {
        (path, name)
        for path, place in all_places(MESSAGES_TABLE)
        for name, field in place.fields.items()
        if name in MEDIA_FIELDS and field.kind not in {FieldKind.CLOSED, FieldKind.OBJECT}
    }
    assert {name for _, name in texts} == {"source"}
    assert all(path.endswith("(search_result)") for path, _ in texts)


IMAGE_PLACES = {
    "a user's": (user(TEXT, IMAGE), "content[1].source"),
    "an assistant's": (assistant(IMAGE), "content[0].source"),
    "a tool's": (user(result(TEXT, IMAGE)), "content[0].content[1].source"),
    "a document's": (
        user(document_of(type="content", content=[TEXT, IMAGE])),
        "content[0].source.content[1].source",
    ),
    "a tool's document's": (
        user(result(document_of(type="content", content=[IMAGE]))),
        "content[0].content[0].source.content[0].source",
    ),
    "a fetched document's": (
        assistant({"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {
            "type": "web_fetch_result", "url": REMOTE,
            "content": document_of(type="content", content=[IMAGE])}}),
        "content[0].content.content.source.content[0].source",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("message", "param"), IMAGE_PLACES.values(), ids=IMAGE_PLACES.keys())
@pytest.mark.parametrize(
    ("source", "key"),
    [
        (BASE64, "data"),
        ({"type": "base64", "media_type": "image/anything", "data": URL}, "data"),
        ({"type": "url", "url": URL}, "url"),
    ],
)
def test_a_picture_anywhere_becomes_base64_of_the_purified_one(message, param, source, key):
    text = json.dumps(ask(message))
    document = json.loads(text.replace(json.dumps(BASE64), json.dumps(source)))
    (image,) = opened(document).images
    assert image.file == base64.b64decode(PIC)
    assert image.param == f"messages[0].{param}.{key}"
    assert forwarded(document) == json.loads(text.replace(json.dumps(BASE64), json.dumps(OUT)))


@pytest.mark.parametrize(
    ("source", "code", "param"),
    [
        ({"type": "url", "url": REMOTE}, "remote_image", ".url"),
        ({"type": "url", "url": "//pictures.example/a.png"}, "remote_image", ".url"),
        ({"type": "base64", "media_type": "image/png", "data": REMOTE}, "remote_image", ".data"),
        ({"type": "base64", "media_type": "image/png"}, "missing_field", ".data"),
        ({"type": "base64", "data": [PIC]}, "invalid_field", ".data"),
        ({"type": "base64", "data": PIC, "url": REMOTE}, "unknown_field", ".url"),
        ({"type": "base64", "data": PIC, "file_id": "f"}, "unsupported_content", ".file_id"),
        ({"type": "url"}, "missing_field", ".url"),
        ({"type": "file", "file_id": "file_1"}, "closed_field", ".type"),
        ({"type": "s3", "uri": "s3://a/b"}, "closed_field", ".type"),
        ({"data": PIC}, "unsupported_content", ".type"),
        ({"type": ["base64"], "data": PIC}, "unsupported_content", ".type"),
        (URL, "invalid_field", ""),
        (None, "missing_field", ""),
    ],
)
def test_a_source_that_is_no_picture_of_ours_is_refused(source, code, param):
    refusal = refusal_of(ask(user({"type": "image", "source": source})))
    assert (refusal.code, refusal.param) == (code, f"messages[0].content[0].source{param}")


@pytest.mark.parametrize(
    ("block", "code", "param"),
    [
        ({"type": "image"}, "missing_field", "source"),
        ({"type": "image_url", "image_url": {"url": URL}}, "unsupported_content", "type"),
        ({"type": "input_image", "image_url": URL}, "unsupported_content", "type"),
        (document_of(type="base64", media_type="application/pdf", data=PIC), "closed_field",
         "source.type"),
        (document_of(type="url", url=REMOTE), "closed_field", "source.type"),
        (document_of(type="file", file_id="f"), "closed_field", "source.type"),
        (document_of(type="text", media_type="image/png", data=PIC), "closed_field",
         "source.media_type"),
        (document_of(type="text", data=f"![]({URL})"), "image_in_text", "source.data"),
        ({"type": "container_upload", "file_id": "f"}, "unsupported_content", "type"),
        ({"type": "text", "text": "x", "source": BASE64}, "unsupported_content", "source"),
        ({"type": "thinking", "thinking": [IMAGE]}, "unsupported_content", "thinking[0].type"),
        ({"type": "search_result", "source": BASE64, "title": "t", "content": []},
         "invalid_field", "source"),
        ({"type": "search_result", "source": "s", "title": "t", "content": [IMAGE]},
         "unsupported_content", "content[0].type"),
        (result({"type": "image_url", "image_url": URL}), "unsupported_content",
         "content[0].type"),
        (result(result(IMAGE)), "unsupported_content", "content[0].type"),
        ({"type": "mcp_tool_result", "tool_use_id": "t", "content": [IMAGE]},
         "unsupported_content", "content[0].type"),
        ({"type": "code_execution_tool_result", "tool_use_id": "t", "content": {
            "type": "code_execution_result", "stdout": "", "stderr": "", "return_code": 0,
            "content": [{"type": "code_execution_output", "file_id": "f"}]}},
         "unsupported_content", "content.content"),
        ({"type": "text_editor_code_execution_tool_result", "tool_use_id": "t", "content": {
            "type": "text_editor_code_execution_view_result", "file_type": "image",
            "content": PIC}}, "closed_field", "content.file_type"),
        ({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {
            "type": "web_fetch_20250910", "name": "web_fetch"}}}, "closed_field",
         "tool.definition.type"),
        ({"type": "tool_addition", "tool": {"type": "mcp_toolset_reference", "server_name": "s"}},
         "closed_field", "tool.type"),
        ({"type": "hologram"}, "unsupported_content", "type"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("say", [user, assistant])
def test_a_block_that_could_bring_in_a_picture_is_refused(say, block, code, param):
    refusal = refusal_of(ask(say(block)))
    assert (refusal.code, refusal.param) == (code, f"messages[0].content[0].{param}")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"system": [IMAGE]}, "unsupported_content", "system[0].type"),
        ({"system": f"![]({URL})"}, "image_in_text", "system"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "closed_field",
         "tools[0].type"),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
         "closed_field", "tools[0].type"),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "s"}]}, "closed_field",
         "tools[0].type"),
        ({"tools": [{"type": "bash_20250124x", "name": "bash"}]}, "closed_field",
         "tools[0].type"),
        ({"mcp_servers": [{"type": "url", "url": REMOTE, "name": "s"}]}, "closed_field",
         "mcp_servers"),
        ({"container": "c"}, "closed_field", "container"),
        ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, "closed_field",
         "thread"),
        ({"fallbacks": [{"model": "m2"}]}, "closed_field", "fallbacks"),
        ({"workspace_id": "w"}, "closed_field", "workspace_id"),
        ({"safeguards": [{"a": 1}]}, "closed_field", "safeguards"),
        ({"api_base": "http://10.0.0.1"}, "closed_field", "api_base"),
        ({"extra_body": {"messages": []}}, "closed_field", "extra_body"),
        ({"kv_transfer_params": {"a": 1}}, "closed_field", "kv_transfer_params"),
        ({"images": [PIC]}, "unsupported_content", "images"),
        ({"Messages": [user(IMAGE)]}, "unsupported_content", "Messages"),
        ({"prompt": "x"}, "closed_field", "prompt"),
        ({"never_heard_of": {"a": 1}}, "unknown_field", "never_heard_of"),
        ({"max_tokens": 0}, "invalid_field", "max_tokens"),
        ({"messages": "hi"}, "invalid_field", "messages"),
        ({"messages": []}, "invalid_field", "messages"),
    ],
)  # fmt: skip
def test_a_field_that_does_not_pass_is_named(fields, code, param):
    refusal = refusal_of(ask(user(TEXT)) | fields)
    assert (refusal.code, refusal.param) == (code, param)


def test_a_message_of_the_systems_brings_in_no_picture():
    refusal = refusal_of(ask({"role": "system", "content": [IMAGE]}))
    assert refusal.param == "messages[0].content[0].type"


@pytest.mark.parametrize(
    ("document", "setting"),
    [
        (ask(user(TEXT), tools=[{"type": "web_search_20250305", "name": "web_search"}]),
         "tools.web_search_20250305"),
        (ask(user(document_of(type="base64", media_type="application/pdf", data=PIC))),
         "messages.content.source.base64"),
        (ask(user({"type": "image", "source": {"type": "file", "file_id": "f"}})),
         "messages.content.source.file"),
        (ask(user(TEXT), mcp_servers=[{"type": "url", "url": REMOTE, "name": "s"}]),
         "mcp_servers"),
    ],
)  # fmt: skip
def test_the_refusal_says_which_setting_opens_it_and_that_opens_it(document, setting):
    assert f"CODEFEND_ALLOWED_FIELDS={setting}" in refusal_of(document).public_message
    assert forwarded(document, allowed=(setting,)) == document


def test_the_refusal_of_a_document_says_what_to_send_instead():
    pdf = document_of(type="base64", media_type="application/pdf", data=PIC)
    assert "its pages as images" in refusal_of(ask(user(pdf))).public_message
    held = {"type": "image", "source": {"type": "file", "file_id": "f"}}
    assert '"type": "base64"' in refusal_of(ask(user(held))).public_message
    elsewhere = {"type": "image", "source": {"type": "url", "url": REMOTE}}
    assert "Send the image itself" in refusal_of(ask(user(elsewhere))).public_message


PASSING = {
    "a string": ask({"role": "user", "content": "hi"}),
    "Claude Code's": ask(
        {"role": "ctx", "content": "hi"},
        user(TEXT | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}),
        system=[TEXT | {"cache_control": {"type": "ephemeral"}}],
        metadata={"user_id": json.dumps({"device_id": "a" * 64, "session_id": "b" * 36})},
        tools=[
            {"name": "Bash", "description": "d" * 5000, "input_schema": {"type": "object"},
             "eager_input_streaming": True},
            {"type": "custom", "name": "f", "input_schema": {}, "strict": True},
        ],
        thinking={"type": "enabled", "budget_tokens": 1024},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "high"},
        temperature=1,
    ),
    "tools that the client runs": ask(
        user(TEXT),
        tools=[
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool",
             "max_characters": 9000},
            {"type": "computer_20251124", "name": "computer", "display_width_px": 9,
             "display_height_px": 9, "enable_zoom": True},
            {"type": "memory_20250818", "name": "memory"},
            {"type": "browser_toolset_20260801", "configs": {"zoom": {"enabled": False}}},
            {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"},
            {"type": "tool_search_tool_regex", "name": "tool_search_tool_regex"},
        ],
        tool_choice={"type": "tool", "name": "bash", "disable_parallel_tool_use": True},
    ),
    "a second turn": ask(
        user(TEXT),
        assistant(
            {"type": "thinking", "thinking": "hm", "signature": PIC * 9},
            {"type": "redacted_thinking", "data": PIC * 9},
            {"type": "text", "text": "x", "citations": None},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"image": "a"},
             "caller": {"type": "direct"}},
        ),
        user(result(TEXT, {"type": "tool_reference", "tool_name": "g"}), TEXT,
             {"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": True},
             {"type": "tool_result", "tool_use_id": "t"}),
    ),
    "a browser": ask(user(result({"type": "browser_state", "tabs": [
        {"tab_id": "1", "title": "t", "url": REMOTE, "active": True}]}))),
    "texts as documents": ask(user(
        document_of(type="text", media_type="text/plain", data="long " * 99),
        document_of(type="content", content="long " * 99) | {"citations": {"enabled": True}},
        {"type": "search_result", "source": REMOTE, "title": "t", "content": [TEXT]},
    )),
    "what tools of the upstream's said": ask(assistant(
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search",
         "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
            {"type": "web_search_result", "url": REMOTE, "title": "t", "page_age": None,
             "encrypted_content": PIC * 9}]},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": {
            "type": "web_search_tool_result_error", "error_code": "unavailable"}},
        {"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {
            "type": "web_fetch_result", "url": REMOTE, "retrieved_at": None, "content":
            document_of(type="text", media_type="text/plain", data="page")}},
        {"type": "bash_code_execution_tool_result", "tool_use_id": "s", "content": {
            "type": "bash_code_execution_result", "content": [], "stdout": "1", "stderr": "",
            "return_code": 0}},
        {"type": "mcp_tool_use", "id": "m", "name": "f", "server_name": "s", "input": {}},
        {"type": "mcp_tool_result", "tool_use_id": "m", "content": [TEXT], "is_error": False},
        {"type": "compaction", "content": "so far", "encrypted_content": PIC * 9},
    )),
    "servers of one's own": ask(user(TEXT), chat_template_kwargs={"enable_thinking": False}),
}  # fmt: skip


@pytest.mark.parametrize("document", PASSING.values(), ids=PASSING.keys())
def test_what_clients_send_passes_as_it_is(document):
    assert forwarded(document) == document


LANGCHAIN = {"type": "text", "text": "x", "id": "lc_1f0e8a3b-7c5d-4e55-a1a4-2f2f2f2f2f2f"}


@pytest.mark.parametrize(
    "block",
    [
        LANGCHAIN,
        LANGCHAIN | {"annotations": []},
        LANGCHAIN | {"index": "lc_txt_0", "extras": {}},
        {"type": "thinking", "thinking": "hm", "signature": "c2ln", "index": 0, "id": "lc_1"},
    ],
)
@pytest.mark.parametrize("protocol", [MESSAGES, CHAT_COMPLETIONS], ids=lambda p: p.name)
def test_notes_that_langchain_leaves_on_a_part_pass(protocol, block):
    document = {"model": "m", "messages": [assistant(block)]}
    opened = open_chat(json.dumps(document).encode(), protocol, LIMITS, None, FieldRules())
    assert json.loads(opened.fragments[0]) == document


@pytest.mark.parametrize(("sent", "asked"), [(50, 50), (32_000, 100), (-1, None)])
def test_an_answer_is_asked_for_no_longer_than_it_may_be(sent, asked):
    assert forwarded(ask(user(TEXT), max_tokens=sent)).get("max_tokens") == asked


@pytest.mark.parametrize(
    ("asked", "budget", "lowered"),
    [(100, 99, 99), (32_000, 31_999, 99), (400, 100, 25), (400, None, None), (400, True, True)],
)
def test_what_may_be_thought_is_lowered_with_the_answer(asked, budget, lowered):
    thinking = {"type": "enabled", "budget_tokens": budget}
    got = forwarded(ask(user(TEXT), max_tokens=asked, thinking=thinking))
    assert got["thinking"] == thinking | {"budget_tokens": lowered}


def test_where_nothing_is_refused_what_cannot_be_read_stays():
    document = ask(
        user(IMAGE, {"type": "image", "source": {"type": "url", "url": REMOTE}},
             document_of(type="base64", media_type="application/pdf", data=PIC)),
        container="c",
    )  # fmt: skip
    found = opened(document, is_enforced=False).findings
    assert found.counts == {"remote_image": 1, "closed_field": 2}
    expected = json.loads(json.dumps(document))
    expected["messages"][0]["content"][0]["source"] = OUT
    assert forwarded(document, is_enforced=False) == expected
