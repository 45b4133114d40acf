"""Which fields of a chat pass: what is refused and by which name, and what passes bit for bit."""

import base64
import json

import pytest
from openai.types.chat import ChatCompletionMessage

from codefend.service.decode.chat import Chat, ChatLimits, open_chat
from codefend.service.errors import RequestRefused
from codefend.service.forward.completion import ChatBody
from codefend.service.policy import TextImages
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from codefend.service.protocols.fields import FieldRules

LIMITS = ChatLimits(max_images=3, max_answer_tokens=100, max_choices=4)
PIC = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(120))).decode()
URL = f"data:image/png;base64,{PIC}"
REMOTE = "https://pictures.example/a.png"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
HELLO = {"role": "user", "content": "hi"}


def opened(document, body=None, **rules):
    body = json.dumps(document).encode() if body is None else body
    return open_chat(body, CHAT_COMPLETIONS, LIMITS, None, FieldRules(**rules))


def forwarded(document, **rules):
    chat = opened(document, **rules)
    return json.loads(
        ChatBody(
            CHAT_COMPLETIONS, chat.fragments, [(URL.encode(), False)] * len(chat.images), True
        ).body(None)
    )


def refusal_of(document, **rules):
    with pytest.raises(RequestRefused) as refusal:
        opened(document, **rules)
    return refusal.value


def chat(*messages, **fields):
    return {"model": "m", "messages": list(messages) or [HELLO], **fields}


def user(*content):
    return {"role": "user", "content": list(content)}


def assistant(**fields):
    return {"role": "assistant", "content": "a car", **fields}


REMOTE_CHAT = {"messages": [user({"type": "image_url", "image_url": {"url": REMOTE}})]}
RAW_CHAT = {"messages": [user({"type": "image_url", "image_url": {"url": f"data:;base64,{PIC}"}})]}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        # g1 to g3: what a gateway merges, or sends in its place
        ({"extra_body": REMOTE_CHAT}, "closed_field", "extra_body"),
        ({"extra_body": RAW_CHAT}, "closed_field", "extra_body"),
        ({"fallbacks": [{"model": "m2", **RAW_CHAT}]}, "closed_field", "fallbacks"),
        ({"extra_query": {"a": "b"}}, "closed_field", "extra_query"),
        ({"extra_headers": {"a": "b"}}, "closed_field", "extra_headers"),
        ({"litellm_params": {"api_base": "x"}}, "closed_field", "litellm_params"),
        ({"litellm_anything": 1}, "closed_field", "litellm_anything"),
        ({"_litellm_internal": "x"}, "closed_field", "_litellm_internal"),
        ({"mock_response": "x"}, "closed_field", "mock_response"),
        ({"user_continue_message": user(IMAGE)}, "closed_field", "user_continue_message"),
        ({"prompt_id": "x", "prompt_variables": {}}, "closed_field", "prompt_id"),
        ({"langfuse_host": "x"}, "closed_field", "langfuse_host"),
        ({"input_cost_per_token": 0}, "closed_field", "input_cost_per_token"),
        # g4: media under names of others' own, or of nobody's
        ({"image_base64": PIC}, "unsupported_content", "image_base64"),
        ({"documents": [PIC]}, "invalid_field", "documents[0]"),
        ({"inline_data": {"data": PIC}}, "unsupported_content", "inline_data"),
        ({"picture": PIC}, "unknown_field", "picture"),
        ({"deep": [{"er": [{"still": PIC}]}]}, "unknown_field", "deep"),
        ({"x": "a"}, "unknown_field", "x"),
        ({"images": 1}, "unsupported_content", "images"),
        # g5
        ({"prediction": URL}, "invalid_field", "prediction"),
        ({"prediction": {"type": "content", "content": "x", "url": REMOTE}},
         "unknown_field", "prediction.url"),
        # g7: what makes an upstream fetch, run or re-template something
        ({"chat_template": "{{x}}"}, "closed_field", "chat_template"),
        ({"chat_template_kwargs": {"chat_template": "{{x}}"}}, "closed_field",
         "chat_template_kwargs.chat_template"),
        ({"custom_logit_processor": "x"}, "closed_field", "custom_logit_processor"),
        ({"logits_processors": ["x"]}, "closed_field", "logits_processors"),
        ({"kv_transfer_params": {"remote_host": "x"}}, "closed_field", "kv_transfer_params"),
        ({"bootstrap_host": "10.0.0.1"}, "closed_field", "bootstrap_host"),
        ({"bootstrap_port": 8998}, "closed_field", "bootstrap_port"),
        ({"bootstrap_room": 0}, "closed_field", "bootstrap_room"),
        ({"api_base": "http://10.0.0.1"}, "closed_field", "api_base"),
        ({"base_url": "http://10.0.0.1"}, "closed_field", "base_url"),
        ({"lora_path": "/x"}, "closed_field", "lora_path"),
        ({"input_ids": [1, 2]}, "closed_field", "input_ids"),
        ({"mm_processor_kwargs": {"a": 1}}, "closed_field", "mm_processor_kwargs"),
        ({"tools": [{"type": "mcp", "server_url": REMOTE}]}, "closed_field", "tools[0].type"),
        ({"tools": [{"type": "web_fetch_20250910", "name": "f"}]}, "closed_field", "tools[0].type"),
        ({"tools": [{"type": ["function"]}]}, "closed_field", "tools[0].type"),
        # Names that only look like others, numbers too
        ({"Extra_Body": 1}, "unsupported_content", "Extra_Body"),
        ({"TEMPERATURE": 1}, "unsupported_content", "TEMPERATURE"),
        ({"MOCK_testing": 1}, "closed_field", "MOCK_testing"),
        # A picture or a URL as a name
        ({URL: 1}, "unknown_field", URL[:64]),
        ({REMOTE: None}, "unknown_field", REMOTE),
        ({"": "x"}, "unknown_field", ""),
        ({"logit_bias": {URL: 1}}, "unsupported_content", "logit_bias"),
        ({"logit_bias": {REMOTE: 1}}, "unsupported_content", "logit_bias"),
        ({"chat_template_kwargs": {"a b" * 30: 1}}, "unknown_field",
         "chat_template_kwargs." + ("a b" * 30)[:64]),
        # Plain values and references
        ({"reasoning_effort": REMOTE}, "unsupported_content", "reasoning_effort"),
        ({"service_tier": "x" * 65}, "unsupported_content", "service_tier"),
        ({"modalities": ["text", URL]}, "unsupported_content", "modalities"),
        ({"chat_template_kwargs": {"a": URL}}, "unsupported_content", "chat_template_kwargs.a"),
        ({"web_search_options": {"filters": {"x": [REMOTE]}}}, "unsupported_content",
         "web_search_options"),
        ({"model": REMOTE}, "unsupported_content", "model"),
        ({"user": "//a.example/b"}, "unsupported_content", "user"),
        ({"user": " \\\\a.example\\b"}, "unsupported_content", "user"),
        ({"user": "https:/\t/a.example"}, "unsupported_content", "user"),
        ({"user": "d\nata:image/png"}, "unsupported_content", "user"),
        ({"user": "DATA:,"}, "unsupported_content", "user"),
        ({"user": "file:/etc/passwd"}, "unsupported_content", "user"),
        ({"user": "x" * 257}, "unsupported_content", "user"),
        ({"safety_identifier": PIC}, "unsupported_content", "safety_identifier"),
        ({"user": "id " + PIC[:81]}, "unsupported_content", "user"),
        ({"tool_choice": {"type": "function", "function": {"name": PIC}}}, "unsupported_content",
         "tool_choice"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_field_that_does_not_pass_is_named(fields, code, param, stream):
    refusal = refusal_of(chat(stream=stream) | fields)
    assert (refusal.code, refusal.param) == (code, param)


MESSAGE = "messages[0]"


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        (HELLO | {"foo": "x"}, "unknown_field", "foo"),
        (HELLO | {"name": REMOTE}, "unsupported_content", "name"),
        (HELLO | {"role": URL}, "unsupported_content", "role"),
        (HELLO | {"reasoning_content": "x"}, "unknown_field", "reasoning_content"),
        (HELLO | {"images": [IMAGE]}, "unsupported_content", "images"),
        (assistant(images=[PIC]), "invalid_field", "images[0]"),
        (assistant(images=PIC), "invalid_field", "images"),
        (assistant(images=[{"type": "image_url", "image_url": {"url": REMOTE}}]), "remote_image",
         "images[0].image_url.url"),
        (assistant(images=[{"type": "image", "data": PIC}]), "unsupported_content",
         "images[0].type"),
        (assistant(audio={"id": "x"}), "unsupported_content", "audio"),
        (assistant(annotations=[{"type": "file", "file": {"content": [IMAGE]}}]),
         "unsupported_content", "annotations[0].file"),
        # LiteLLM puts these among the parts that its upstream gets
        (assistant(thinking_blocks=[{"type": "image", "source": {"data": PIC}}]),
         "unsupported_content", "thinking_blocks[0].type"),
        (assistant(content=[{"type": "thinking", "thinking": [IMAGE]}]), "unsupported_content",
         "content[0].thinking[0].type"),
        (assistant(provider_specific_fields={"compaction_blocks": [
            {"type": "image", "source": {"type": "base64", "data": PIC}}]}),
         "unsupported_content", "provider_specific_fields"),
        (assistant(provider_specific_fields={"tool_results": [{"type": "x", "content": {
            "type": "document", "source": {"type": "base64", "data": PIC}}}]}),
         "unsupported_content", "provider_specific_fields"),
        (assistant(tool_calls=[{"id": "c", "function": {"name": PIC}}]), "unsupported_content",
         "tool_calls[0].function.name"),
        (assistant(tool_calls=[{"id": "c", "image": PIC}]), "unsupported_content",
         "tool_calls[0].image"),
        (user({"type": "text", "text": "x", "foo": "y"}), "unknown_field", "content[0].foo"),
        (user({"type": "thinking", "thinking": "x"}), "unsupported_content", "content[0].type"),
        (user(IMAGE | {"image_url": {"url": URL, "content_hash": "0" * 16}}),
         "unsupported_content", "content[0].image_url.content_hash"),
        (user(IMAGE | {"id": URL}), "unsupported_content", "content[0].id"),
    ],
)  # fmt: skip
def test_a_place_in_a_message_is_named_with_its_indices(message, code, param):
    refusal = refusal_of(chat(message))
    assert (refusal.code, refusal.param) == (code, f"{MESSAGE}.{param}")


@pytest.mark.parametrize(
    ("document", "setting"),
    [
        (chat(chat_template="x"), "chat_template"),
        (chat(extra_body={"a": 1}), "extra_body"),
        (chat(never_heard_of={"a": 1}), "never_heard_of"),
        (chat(images=[PIC]), "images"),
        (chat(model=REMOTE), "model"),
        (chat(HELLO, HELLO | {"foo": "x"}), "messages.foo"),
        (chat(HELLO, user({"type": "text", "text": "x", "bar": [1]})), "messages.content.bar"),
        (chat(user({"type": "input_audio", "input_audio": {"data": PIC}})),
         "messages.content.input_audio"),
        (chat(user({"type": "file", "file": {"file_id": "f"}})), "messages.content.file"),
        (chat(tools=[{"type": "mcp"}]), "tools.type"),
        (chat(tools=[{"function": {"name": "f", "x": "y"}}]), "tools.function.x"),
        (chat(chat_template_kwargs={"chat_template": "x"}), "chat_template_kwargs.chat_template"),
    ],
)  # fmt: skip
def test_the_refusal_says_which_setting_opens_the_field_and_that_opens_it(document, setting):
    assert f"CODEFEND_ALLOWED_FIELDS={setting}" in refusal_of(document).public_message
    assert forwarded(document, allowed=("x.y", setting)) == document
    refusal_of(document, allowed=(setting + "x",))


@pytest.mark.parametrize(
    "document",
    [
        chat(user({"type": "image_url", "image_url": {"url": REMOTE}})),
        chat(Messages=[user(IMAGE)]),
        chat(user(f"![]({URL})")),
        chat(user({"type": "IMAGE_URL "})),
    ],
)
def test_no_setting_opens_what_is_no_matter_of_fields(document):
    names = ("messages", "messages.content", "messages.content.image_url", "Messages",
             "messages.content.image_url.url", "messages.content.type")  # fmt: skip
    refusal = refusal_of(document, allowed=names)
    assert "CODEFEND_ALLOWED_FIELDS" not in refusal.public_message


def test_unknown_fields_are_taken_out_where_that_is_set_and_nothing_else_is():
    document = chat(
        {
            "role": "user",
            "content": [{"type": "text", "text": "x", "a": [1]}, IMAGE],
            "b": {"c": 1},
        },
        {"role": "assistant", "content": "y", "tool_calls": [{"id": "1", "d": "e"}]},
        foo={"bar": [PIC]},
        kept="k",
        **{URL: "x"},
    )
    opened_chat = opened(document, drops_unknown=True, allowed=("kept",))
    got = json.loads(
        ChatBody(CHAT_COMPLETIONS, opened_chat.fragments, [(URL.encode(), False)], True).body(None)
    )
    assert got == chat(
        user({"type": "text", "text": "x"}, IMAGE),
        {"role": "assistant", "content": "y", "tool_calls": [{"id": "1"}]},
        kept="k",
    )
    assert opened_chat.findings.counts == {"dropped": 5}
    names = {"messages.content.a", "messages.b", "messages.tool_calls.d", "foo", URL[:64]}
    assert set(opened_chat.findings.names) == names
    for fields in ({"extra_body": {"a": 1}}, {"images": [PIC]}, {"Messages": []}):
        refusal_of(chat() | fields, drops_unknown=True)


@pytest.mark.parametrize("empty", [None, "", [], {}])
@pytest.mark.parametrize(
    "name", ["images", "extra_body", "chat_template", "api_base", "fallbacks", "never_heard_of"]
)
def test_what_is_empty_passes_under_any_name(name, empty):
    document = chat(HELLO | {"images": empty, "audio": empty}) | {name: empty}
    assert forwarded(document) == document


@pytest.mark.parametrize("value", [0, -1, 1.5, 12345678901234567890, True, False, None])
@pytest.mark.parametrize("name", ["new_knob", "x" * 64, "a.b-c$d_1"])
def test_a_number_passes_under_an_unknown_name_of_a_fields_length(name, value):
    document = chat(HELLO | {name: value}) | {name: value}
    assert forwarded(document) == document
    assert refusal_of(chat() | {name + "x" * 64: value}).code == "unknown_field"


TEXTS = [
    "see data:image/png;base64,aGk= and https://a.example/b.png",
    "[a link](data:image/png;base64,aGk=) and ![an image](https://a.example/b.png)",
    "![0] = 1; f[x](data: int)",
    "ünï \U0001f600 \x00 \u2028 ]( ![",
    URL,
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_opaque_pass_bit_for_bit(text):
    function = {"name": "f", "description": text, "parameters": {"a": text, text: [text]}}
    call = {"id": text, "type": "function", "function": {"name": "f", "arguments": text}}
    document = chat(
        {"role": "system", "content": text},
        user(text, {"type": "text", "text": text}),
        assistant(
            refusal=text,
            reasoning=text,
            reasoning_content=text,
            tool_calls=[call, call | {"function": {"name": "f", "arguments": {"a": text}}}],
            reasoning_details=[{"type": "reasoning.encrypted", "data": text}],
            provider_specific_fields={"thought_signatures": [text]},
            annotations=[{"type": "url_citation", "url_citation": {"url": text, "title": text}}],
        ),
        {"role": "tool", "tool_call_id": text, "content": text},
        tools=[{"type": "function", "function": function}],
        functions=[function],
        stop=[text, "\n"],
        metadata={"a": text, text: {"b": [text]}},
        prediction={"type": "content", "content": text},
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"x": text}},
        },
        guided_regex=text,
        guided_json={"a": text},
        regex=text,
        ebnf=text,
        grammar=text,
        structured_outputs={"grammar": text},
    )
    assert forwarded(document) == document


IN_TEXT = [
    f"look ![]({URL})",
    f"![alt text](  <{URL}> )",
    f"![\n] \t(\n{URL})",
    "![a](DATA:IMAGE/PNG;base64,aGk=)",
    f"![a](data:;base64,{PIC})",
    f"![ [a] b]({URL})",
    f"![ [a]({URL})",
    f"![ a ![x](https://b.example) c]({URL})",
    f"fine ![a](b) ]] ![]({URL})",
]


@pytest.mark.parametrize("text", IN_TEXT)
@pytest.mark.parametrize(
    ("where", "param"),
    [
        (lambda t: chat(HELLO | {"content": t}), "messages[0].content"),
        (lambda t: chat(user("a", t)), "messages[0].content[1]"),
        (lambda t: chat(user({"type": "text", "text": t})), "messages[0].content[0].text"),
        (lambda t: chat(assistant(reasoning=t)), "messages[0].reasoning"),
        (lambda t: chat(assistant(tool_calls=[{"id": "1", "function": {"arguments": t}}])),
         "messages[0].tool_calls[0].function.arguments"),
        (lambda t: chat({"role": "tool", "tool_call_id": "1", "content": t}),
         "messages[0].content"),
        (lambda t: chat(tools=[{"function": {"parameters": {"deep": [t]}}}]),
         "tools[0].function.parameters"),
        (lambda t: chat(metadata={t: 1}), "metadata"),
        (lambda t: chat(stop=[t]), "stop"),
        (lambda t: chat(prediction={"content": t}), "prediction.content"),
    ],
)  # fmt: skip
def test_a_markdown_image_of_data_is_refused_in_every_text(text, where, param):
    refusal = refusal_of(where(text))
    assert (refusal.code, refusal.param) == ("image_in_text", param)


def test_no_way_of_writing_json_hides_one():
    plain = json.dumps(chat(HELLO | {"content": IN_TEXT[0]}))
    bodies = [
        plain.replace("!", "\\u0021").encode(),
        plain.replace("![", "!\\u005b").encode(),
        plain.replace("![", "!\\u005B").encode(),
        plain.replace("![", "\\u0021\\u005B").encode(),
        plain.encode("utf-8-sig"),
        plain.encode("utf-16"),
        plain.encode("utf-16-le"),
        plain.encode("utf-32-be"),
    ]
    for body in bodies:
        with pytest.raises(RequestRefused) as refusal:
            opened(None, body)
        assert refusal.value.code in {"image_in_text", "invalid_body"}
    assert "image_in_text" in refusal.value.code


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        (TextImages.MARKDOWN, "![](https://a.example/b.png)"),
        (TextImages.MARKDOWN, "![x] (b.png)"),
        (TextImages.HTML, "<img src='https://a.example/b.png'>"),
        (TextImages.HTML, '<IMG alt="x"\nSRC=data:image/png;base64,aGk=>'),
        (TextImages.PLACEHOLDERS, "<image>"),
        (TextImages.PLACEHOLDERS, "<image_1> and"),
        (TextImages.PLACEHOLDERS, "<|image_pad|>"),
        (TextImages.PLACEHOLDERS, "<|vision_start|>"),
        (TextImages.PLACEHOLDERS, "[IMG]"),
        (TextImages.PLACEHOLDERS, "[IMG_END]"),
        (TextImages.PLACEHOLDERS, "<start_of_image>"),
        (TextImages.PLACEHOLDERS, "<IMG_CONTEXT>"),
        (TextImages.PLACEHOLDERS, "<|media_pad|>"),
        (TextImages.PLACEHOLDERS, "<|begin_of_image|>"),
        (TextImages.PLACEHOLDERS, "<image_soft_token>"),
        (TextImages.PLACEHOLDERS, "<img></img>"),
    ],
)
def test_an_upstreams_own_syntax_is_refused_where_it_is_set(syntax, text):
    document = chat(user({"type": "text", "text": text}))
    assert forwarded(document) == document
    assert refusal_of(document, text_images=(syntax,)).code == "image_in_text"
    others = tuple(other.value for other in TextImages if other is not syntax)
    assert forwarded(chat(), text_images=others) == chat()


def test_a_long_text_is_searched_in_a_moment():
    texts = [
        "![" * 500_000,
        "](" + " " * 10**6,
        "![a] " + "[" * 10**6 + "](data:",
        "![ ](" + " " * 10**6 + "x](data:",
        "]" * 10**6,
        "<img " * 200_000,
        "<img " + " a" * 500_000,
        "<image" * 200_000,
        "<" + " " * 10**6,
    ]
    for text in texts:
        document = chat(HELLO | {"content": text})
        assert forwarded(document, text_images=tuple(TextImages)[1:]) == document
    assert refusal_of(chat() | {"_cost_" * 200_000: {}}).code == "unknown_field"


# What upstreams return, sent back with the next turn.

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CITATION = {"type": "url_citation", "url_citation": {
    "start_index": 0, "end_index": 3, "title": "t", "url": REMOTE}}  # fmt: skip
OPENAI_MESSAGES = [
    {"content": "hi"},
    {"content": None, "tool_calls": [CALL]},
    {"content": None, "refusal": "no"},
    {"content": "hi", "annotations": [CITATION], "audio": None},
    {"content": "", "function_call": {"name": "f", "arguments": "{}"}},
    {"content": None, "tool_calls": [{"id": "c", "type": "custom",
                                      "custom": {"name": "g", "input": "x"}}]},
]  # fmt: skip
OTHER_MESSAGES = [
    # vLLM, SGLang, Ollama
    {"content": None, "refusal": None, "annotations": None, "audio": None, "function_call": None,
     "tool_calls": [], "reasoning": "so", "reasoning_content": "so"},
    {"content": "x", "reasoning_content": None, "tool_calls": [CALL | {"index": 0}]},
    {"content": "x", "annotations": CITATION},
    # LiteLLM
    {"content": "x", "provider_specific_fields": {"thought_signatures": [PIC], "citations": None},
     "thinking_blocks": [{"type": "thinking", "thinking": "so", "signature": PIC},
                         {"type": "redacted_thinking", "data": PIC}],
     "reasoning_items": [{"type": "reasoning", "id": "r", "encrypted_content": PIC}]},
    {"content": "x", "provider_specific_fields": {"web_search_results": [
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
            {"type": "web_search_result", "url": REMOTE, "encrypted_content": PIC}]}],
        "tool_results": [{"type": "web_fetch_tool_result", "content": {
            "type": "web_fetch_result", "url": REMOTE, "content": {
                "type": "document", "source": {"type": "text", "media_type": "text/plain",
                                               "data": "so"}}}}]}},
    {"content": None, "tool_calls": [
        CALL | {"id": f"call_1__thought__{PIC}",
                "provider_specific_fields": {"thought_signature": PIC},
                "function": CALL["function"] | {"provider_specific_fields": {"x": PIC}}}]},
    # OpenRouter, DeepSeek, Gemini
    {"content": "x", "reasoning": None, "reasoning_details": [
        {"type": "reasoning.summary", "summary": "s", "id": "r", "format": "f", "index": 0},
        {"type": "reasoning.encrypted", "data": PIC}]},
    {"content": "x", "prefix": True},
    {"content": "x", "tool_calls": [
        CALL | {"extra_content": {"google": {"thought_signature": PIC}}}]},
    {"content": "x", "extra_content": {"google": {"thought_signature": PIC}}},
    # LangChain and the like: parts of the assistant's own
    {"content": [{"type": "text", "text": "x", "id": "lc_run--1", "annotations": [], "index": 0}]},
    {"content": [{"type": "text", "text": "x", "annotations": [
        {"type": "citation", "url": REMOTE, "title": "t", "start_index": 0, "end_index": 1,
         "cited_text": "c", "extras": {"a": 1}, "id": "lc_1"}]}]},
    {"content": [{"type": "thinking", "thinking": "so", "signature": PIC},
                 {"type": "redacted_thinking", "data": PIC},
                 {"type": "reasoning", "id": "r", "encrypted_content": PIC,
                  "summary": [{"type": "summary_text", "text": "s"}]},
                 {"type": "thinking", "thinking": [{"type": "text", "text": "so"}], "closed": True},
                 {"type": "output_text", "text": "x", "annotations": []},
                 {"type": "refusal", "refusal": "no"}]},
    {"content": "x", "images": None, "audio": None, "citations": [{"sources": [REMOTE]}]},
    {"content": "x", "cache_control": {"type": "ephemeral"}},
]  # fmt: skip


def dumps_of_openai():
    for fields in OPENAI_MESSAGES:
        message = ChatCompletionMessage(role="assistant", **fields)
        for options in ({}, {"exclude_none": True}, {"exclude_unset": True}):
            yield message.model_dump(mode="json", **options)


@pytest.mark.parametrize(
    "message", [*dumps_of_openai(), *({"role": "assistant"} | m for m in OTHER_MESSAGES)]
)
def test_a_second_turn_goes_back_as_the_upstream_returned_it(message):
    document = chat(HELLO, message, HELLO)
    assert forwarded(document) == document


def test_what_an_assistant_has_drawn_is_purified_as_any_image():
    drawn = [IMAGE | {"index": 0}, {"type": "image_url", "image_url": URL}]
    document = chat(HELLO, assistant(images=drawn, content=None), HELLO)
    opened_chat = opened(document)
    place = "messages[1].images"
    params = [f"{place}[0].image_url.url", f"{place}[1].image_url"]
    assert [image.param for image in opened_chat.images] == params
    assert opened_chat.images[0].file == base64.b64decode(PIC)
    assert PIC.encode() not in b"".join(opened_chat.fragments)


# Rules that refuse nothing.


@pytest.mark.parametrize(
    ("document", "verdict", "name"),
    [
        (chat(extra_body=REMOTE_CHAT), "closed_field", "extra_body"),
        (chat(never_heard_of=[PIC]), "unknown_field", "never_heard_of"),
        (chat(images=[PIC]), "unsupported_content", "images"),
        (chat(Messages=[1]), "unsupported_content", "Messages"),
        (chat(prediction=URL), "invalid_field", "prediction"),
        (chat(user({"type": "input_audio", "input_audio": {"data": PIC}})), "unsupported_content",
         "messages.content.input_audio"),
        (chat(user({"type": "image_url", "image_url": {"url": REMOTE}})), "remote_image",
         "messages.content.image_url.url"),
        (chat(user({"type": "image_url", "image_url": REMOTE})), "remote_image",
         "messages.content.image_url"),
        (chat(user({"type": "image_url", "image_url": {"url": "data:image/bmp;base64,Qk1hYmNk"}})),
         "unsupported_image", "messages.content.image_url.url"),
        (chat(user({"type": "image_url"})), "missing_field", "messages.content.image_url"),
        (chat(user({"type": "image_url", "image_url": {"url": 7}})), "invalid_field",
         "messages.content.image_url.url"),
        (chat(user({"type": "text", "text": [1]})), "invalid_field", "messages.content.text"),
        (chat(user(7)), "unsupported_content", "messages.content"),
        (chat("hi"), "invalid_field", "messages"),
        (chat({"content": "hi"}), "invalid_field", "messages.role"),
        (chat({"role": "user", "content": {"a": 1}}), "unsupported_content", "messages.content"),
        (chat(user(f"![]({URL})")), "image_in_text", "messages.content"),
        (chat(model=REMOTE), "unsupported_content", "model"),
        ({"model": "m", "messages": "hi"}, "invalid_field", "messages"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("drops_unknown", [False, True])
def test_where_nothing_is_refused_it_passes_as_it_is_and_is_found(
    document, verdict, name, drops_unknown
):
    opened_chat = opened(document, is_enforced=False, drops_unknown=drops_unknown)
    assert json.loads(b"".join(opened_chat.fragments)) == document
    assert (opened_chat.findings.counts, opened_chat.findings.names) == ({verdict: 1}, [name])
    again = Chat.unpack(*opened_chat.pack())
    assert again == opened_chat


def test_limits_hold_where_nothing_is_refused_for_its_fields():
    for fields in ({"n": 5}, {"max_tokens": 0}, {"stream": "true"}, {"codefend": {"seed": 1}}):
        refusal_of(chat() | fields, is_enforced=False)
    assert refusal_of(chat(user(*[IMAGE] * 4)), is_enforced=False).code == "too_many_images"
    assert refusal_of({"model": "m"}, is_enforced=False).code == "missing_field"


def test_what_is_found_is_bounded():
    document = chat() | {f"field_{index}": "x" for index in range(1000)} | {"y" * 9999: "x"}
    findings = opened(document, is_enforced=False).findings
    assert findings.counts == {"unknown_field": 1001}
    assert len(findings.names) == 16
    deep = opened(chat(HELLO | {"z" * 9999: "x"}), is_enforced=False).findings.names
    assert deep == ["messages." + "z" * 64]
