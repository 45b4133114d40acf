"""A chat taken apart: what is refused, by name; and that what is put together again is the same."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.service.decode.chat import Chat, ChatLimits, open_chat
from codefend.service.errors import RequestRefused
from codefend.service.forward.completion import ChatBody
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from codefend.service.protocols.fields import FieldRules

LIMITS = ChatLimits(max_images=3, max_answer_tokens=100, max_choices=4)
RULES = FieldRules()
URL = "data:image/png;base64," + base64.b64encode(b"image").decode()
IMAGE = {"type": "image_url", "image_url": {"url": URL}}


def user(*content):
    return {"role": "user", "content": list(content)}


def opened(document):
    return open_chat(json.dumps(document).encode(), CHAT_COMPLETIONS, LIMITS, None, RULES)


def image_with(**more):
    return IMAGE | {"image_url": {"url": URL} | more}


def url(value):
    return {"type": "image_url", "image_url": value}


PART = "messages[0].content[0]"


@pytest.mark.parametrize(
    ("part", "code", "param"),
    [
        # Other kinds of content
        ({"type": "video_url", "video_url": {"url": URL}}, "unsupported_content", ".type"),
        ({"type": "input_audio", "input_audio": {}}, "unsupported_content", ".type"),
        ({"type": "audio_url", "audio_url": {}}, "unsupported_content", ".type"),
        ({"type": "file", "file": {"file_id": "x"}}, "unsupported_content", ".type"),
        ({"type": "image_embeds", "image_embeds": "x"}, "unsupported_content", ".type"),
        ({"type": "image_pil", "image_pil": "x"}, "unsupported_content", ".type"),
        ({"type": "image", "source": {"data": "x"}}, "unsupported_content", ".type"),
        ({"type": "input_image", "image_url": URL}, "unsupported_content", ".type"),
        ({"type": "tool_result", "content": [IMAGE]}, "unsupported_content", ".type"),
        ({"type": "IMAGE_URL", "image_url": {"url": URL}}, "unsupported_content", ".type"),
        ({"type": ["image_url"], "image_url": {"url": URL}}, "unsupported_content", ".type"),
        ({"image_url": {"url": URL}}, "unsupported_content", ".type"),
        ({"text": "hi"}, "unsupported_content", ".type"),
        (7, "unsupported_content", ""),
        ([IMAGE], "unsupported_content", ""),
        # Two things in one part: some server may read the other
        ({"type": "text", "text": "x", "image_url": {"url": URL}}, "unsupported_content",
         ".image_url"),
        ({"type": "text", "text": "x", "Image_URL": URL}, "unsupported_content", ".Image_URL"),
        (IMAGE | {"text": "x"}, "unsupported_content", ".text"),
        (IMAGE | {"uuid": "what-another-caller-sent"}, "unsupported_content", ".uuid"),
        (IMAGE | {"cache_control": {"type": URL * 3}}, "unsupported_content", ".cache_control"),
        (image_with(urls=[URL]), "unsupported_content", ".image_url.urls"),
        (image_with(detail=URL * 3), "unsupported_content", ".image_url.detail"),
        # Images that are elsewhere
        (url({"url": "https://a.b/c.png"}), "remote_image", ".image_url.url"),
        (url({"url": "HTTP://127.0.0.1/c.png"}), "remote_image", ".image_url.url"),
        (url({"url": " \thttps:\\\\a.b\\@c.d/e.png"}), "remote_image", ".image_url.url"),
        (url("//a.b/c.png"), "remote_image", ".image_url"),
        (url("file:///etc/passwd"), "remote_image", ".image_url"),
        (url("blob:https://a.b/c"), "remote_image", ".image_url"),
        (url("gs://bucket/c.png"), "remote_image", ".image_url"),
        # Malformed ones
        (url({"url": "/etc/passwd.png"}), "invalid_field", ".image_url.url"),
        (url({"url": "\\\\host\\share"}), "invalid_field", ".image_url.url"),
        (url({"url": "data:image/png,abc"}), "invalid_field", ".image_url.url"),
        (url({"url": "x" * 70 + "://a.b/c.png"}), "invalid_field", ".image_url.url"),
        (url({"url": ""}), "invalid_image", ".image_url.url"),
        (url({"url": 7}), "invalid_field", ".image_url.url"),
        (url({"url": None}), "invalid_field", ".image_url.url"),
        (url({"detail": "low"}), "missing_field", ".image_url.url"),
        (url(None), "missing_field", ".image_url.url"),
        ({"type": "text"}, "invalid_field", ".text"),
        ({"type": "text", "text": {"url": URL}}, "invalid_field", ".text"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["user", "tool", "system", "assistant"])
def test_a_part_that_is_neither_text_nor_an_image_is_refused(role, part, code, param):
    with pytest.raises(RequestRefused) as refusal:
        opened({"messages": [{"role": role, "content": [part]}]})
    assert (refusal.value.code, refusal.value.param) == (code, PART + param)


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("hi", "invalid_field", "messages[0]"),
        ({"content": "hi"}, "invalid_field", "messages[0].role"),
        ({"role": "user", "content": {"text": "x"}}, "unsupported_content", "messages[0].content"),
        ({"role": "user", "content": 7}, "unsupported_content", "messages[0].content"),
        ({"role": "user", "images": ["aGk="]}, "unsupported_content", "messages[0].images"),
        ({"role": "user", "Images": ["aGk="]}, "unsupported_content", "messages[0].Images"),
        ({"role": "user", "Content": [IMAGE]}, "unsupported_content", "messages[0].Content"),
        ({"role": "user", "content": "", "CONTENT": "x"}, "unsupported_content",
         "messages[0].CONTENT"),
        ({"role": "assistant", "audio": {"id": "x"}}, "unsupported_content", "messages[0].audio"),
        ({"role": "user", "extra": {"deep": [" DATA:image/png;base64,aGk="]}},
         "unknown_field", "messages[0].extra"),
    ],
)  # fmt: skip
def test_a_message_that_could_hide_an_image_is_refused(message, code, param):
    with pytest.raises(RequestRefused) as refusal:
        opened({"messages": [message]})
    assert (refusal.value.code, refusal.value.param) == (code, param)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": []}, "invalid_field", "messages"),
        ({"messages": "hi"}, "invalid_field", "messages"),
        ({"images": ["aGk="]}, "unsupported_content", "images"),
        ({"image_data": [{"data": "aGk=", "id": 1}]}, "unsupported_content", "image_data"),
        ({"multi_modal_data": {"image": "aGk="}}, "unsupported_content", "multi_modal_data"),
        ({"extra": [{"x": "data:video/mp4;base64,aGk="}]}, "unknown_field", "extra"),
        # Go reads these as messages and stream
        ({"Messages": [user(IMAGE)]}, "unsupported_content", "Messages"),
        ({"me\u017f\u017fages": [user(IMAGE)]}, "unsupported_content", "me\u017f\u017fages"),
        ({"STREAM": True}, "unsupported_content", "STREAM"),
        ({"max_to\u212aens": 10**9}, "unsupported_content", "max_to\u212aens"),
        ({"prediction": {"type": "content", "content": [{"type": "file"}]}},
         "unsupported_content", "prediction.content[0].type"),
        ({"stream": "true"}, "invalid_field", "stream"),
        ({"n": 5}, "invalid_field", "n"),
        ({"n": "2"}, "invalid_field", "n"),
        ({"max_tokens": 0}, "invalid_field", "max_tokens"),
        ({"max_tokens": 1e9}, "invalid_field", "max_tokens"),
        ({"max_completion_tokens": True}, "invalid_field", "max_completion_tokens"),
        ({"codefend": []}, None, None),
        ({"codefend": [1]}, "invalid_field", "codefend"),
        ({"codefend": {"return_image": 1}}, "invalid_field", "codefend.return_image"),
        ({"codefend": {"seed": 1}}, "invalid_field", "codefend.seed"),
    ],
)  # fmt: skip
def test_a_field_that_is_understood_has_to_be_right(fields, code, param):
    document = {"messages": [user("hi")]} | fields
    if code is None:
        assert opened(document).fragments == (b'{"messages":[{"role":"user","content":["hi"]}]}',)
        return
    with pytest.raises(RequestRefused) as refusal:
        opened(document)
    assert (refusal.value.code, refusal.value.param) == (code, param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"messages": [{"role": "user", "content": "hi"}], "x": NaN}',
        b'{"messages": [{"role": "user", "content": "hi"}], "x": -Infinity}',
        b'{"messages": [{"role": "user", "content": "hi"}], "x": 1e999}',
        b'{"messages": [{"role": "user", "content": "hi"}], "x": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "hi"}], "metadata": '
        + b"[" * 990
        + b"]" * 990
        + b"}",
        b'{"messages": "\xff"}',
    ],
)
def test_what_no_other_parser_would_read_alike_is_refused(body):
    with pytest.raises(RequestRefused) as refusal:
        open_chat(body, CHAT_COMPLETIONS, LIMITS, None, RULES)
    assert refusal.value.code == "invalid_body"


def test_a_key_that_stands_twice_goes_out_once():
    """Servers differ in which of the two they read: the one that was looked at is the only one."""
    body = b'{"messages": [{"role": "user", "content": [{"type": "file"}], "content": "hi"}]}'
    assert open_chat(body, CHAT_COMPLETIONS, LIMITS, None, RULES).fragments == (
        b'{"messages":[{"role":"user","content":"hi"}]}',
    )


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        image_with(detail="low"),
        IMAGE | {"min_pixels": 1000, "uuid": None},
        url(URL) | {"detail": "high"},
    ],
)
def test_notes_on_a_part_stay(part):
    document = {"messages": [user(part)]}
    chat = opened(document)
    body = ChatBody(
        CHAT_COMPLETIONS, chat.fragments, [(URL.encode(), False)] * len(chat.images), True
    ).body(None)
    assert json.loads(body) == document


def test_images_are_counted_before_any_is_decoded():
    not_base64 = url({"url": "data:image/png;base64,@"})
    with pytest.raises(RequestRefused) as refusal:
        opened({"messages": [user(*[not_base64] * 4)]})
    assert refusal.value.code == "too_many_images"


def test_no_text_can_make_a_gap():
    chat = opened({"messages": [user({"type": "text", "text": URL}, IMAGE, URL)]})
    assert len(chat.fragments) == 2
    assert [image.file for image in chat.images] == [b"image"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
PARTS = st.text().map(lambda text: {"type": "text", "text": text}) | st.just(IMAGE)
MESSAGES = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.text("abc_ \u00fc", max_size=20),
    st.none() | st.text() | st.lists(PARTS, max_size=2),
)
FREE = st.sampled_from(["stop", "metadata", "grammar", "guided_json"])


@given(st.lists(MESSAGES, min_size=1, max_size=1), st.dictionaries(FREE, JSON))
def test_what_is_taken_apart_goes_together_again(messages, fields):
    document = {"messages": messages} | fields
    chat = opened(document)
    meta, blob = chat.pack()
    again = Chat.unpack(json.loads(json.dumps(meta)), blob)
    assert again == chat
    body = ChatBody(
        CHAT_COMPLETIONS, again.fragments, [(URL.encode(), False)] * len(again.images), True
    ).body(None)
    assert json.loads(body) == document
    named = json.loads(
        ChatBody(
            CHAT_COMPLETIONS, again.fragments, [(URL.encode(), False)] * len(again.images), False
        ).body('m"')
    )
    assert named == {"model": 'm"'} | document


NAMES = st.sampled_from(
    ["messages", "role", "content", "type", "text", "image_url", "url", "detail", "codefend",
     "stream", "n", "prediction", "images", "return_image", "cache_control", "Messages"]
)  # fmt: skip
VALUES = st.sampled_from(["user", "text", "image_url", "refusal", URL, "", "https://a.b/c.png"])
NEARLY = st.recursive(
    VALUES | st.none() | st.booleans() | st.integers(-1, 3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)


@given(st.dictionaries(NAMES, NEARLY, max_size=4), st.lists(NEARLY, max_size=2))
def test_whatever_comes_is_taken_apart_or_refused_and_nothing_else(fields, messages):
    for document in (fields, fields | {"messages": messages}, {"messages": [fields]}):
        with contextlib.suppress(RequestRefused):
            chat = opened(document)
            assert len(chat.fragments) == len(chat.images) + 1
            # An image leaves through a gap, or as a text that nobody takes for one.
            assert b'"url":"data:' not in b"".join(chat.fragments)


def test_nothing_but_a_data_url_fills_a_gap():
    with pytest.raises(ValueError, match="data:"):
        ChatBody(CHAT_COMPLETIONS, [b'{"a":"', b'"}'], [(b"https://a.b/c.png", False)], True).body(
            None
        )
    with pytest.raises(ValueError, match="zip"):
        ChatBody(CHAT_COMPLETIONS, [b'{"a":"', b'"}'], [], True).body(None)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [(99, 99), (100, 100), (101, 100), (16384, 100), (10**30, 100), (-1, None), (None, None)],
)
def test_an_answer_is_asked_for_no_longer_than_it_may_be(name, sent, forwarded):
    document = json.loads(opened({"messages": [user("hi")], name: sent}).fragments[0])
    assert document.get(name) == forwarded
    assert (name in document) is (forwarded is not None or sent is None)
