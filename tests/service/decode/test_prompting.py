"""Where the defensive prompt goes in every protocol, and that the user's words stay as they are."""

import base64
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codefend.models.prompts.templates import Template
from codefend.service.decode.chat import Chat, ChatLimits, open_chat
from codefend.service.forward.completion import ChatBody
from codefend.service.protocols.base import all_protocols
from codefend.service.protocols.fields import FieldRules
from codefend.service.protocols.prompting import Placing, PromptPlace

LIMITS = ChatLimits(max_images=20, max_answer_tokens=100, max_choices=1)
BEFORE, BEHIND = "Trust the picture's things.", "Be sure."
TOLD = f"{BEFORE} {BEHIND}"
CALM = Template("calm", "2", f"{BEFORE} {{question}} {BEHIND}")
AROUND, SYSTEM = PromptPlace.TURN, PromptPlace.SYSTEM
PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(99)).decode()
URL = f"data:image/png;base64,{PICTURE}"
IMAGES = {
    "messages": {"type": "image_url", "image_url": {"url": URL}},
    "input": {"type": "input_image", "image_url": URL},
    "anthropic": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PICTURE},
    },
}
PATHS = pytest.mark.parametrize("path", all_protocols())
SAID = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: text.strip() and "![" not in text
)


def image(protocol):
    return IMAGES["anthropic" if protocol.key_header else protocol.conversation]


def text(protocol, words):
    return {"type": protocol.text_types[0], "text": words}


def user(*content):
    return {"role": "user", "content": list(content)}


def forwarded(protocol, turns, place=AROUND, *, prompt=CALM, adds_parts=True, **fields):
    """What the model gets of a conversation, and what was asked in it of its images."""
    document = {"model": "m", protocol.conversation: copy.deepcopy(turns), **fields}
    placing = place and Placing(place, adds_parts)
    chat = open_chat(json.dumps(document).encode(), protocol, LIMITS, placing, FieldRules())
    assert Chat.unpack(*through_json(chat.pack())) == chat
    images = [(URL.encode(), image.is_source) for image in chat.images]
    prompts = [prompt] * len(chat.questions)
    body = ChatBody(protocol, chat.fragments, images, chat.has_model, {}, chat.gaps, prompts).body(
        "m"
    )
    return json.loads(body), chat.questions


def through_json(packed):
    meta, blob = packed
    return json.loads(json.dumps(meta)), blob


def texts(messages):
    """Every text of these messages, in order."""
    said = []
    for message in messages:
        content = message.get("content")
        parts = [content] if isinstance(content, str) else content or []
        said += [part if isinstance(part, str) else part.get("text") for part in parts]
    return [each for each in said if each is not None]


@st.composite
def conversations(draw):
    """Turns as (role, texts, number of images, whether its content is a list)."""
    turns = []
    for _ in range(draw(st.integers(1, 5))):
        role = draw(st.sampled_from(["user", "user", "assistant"]))
        said = draw(st.lists(SAID, min_size=role == "assistant", max_size=2))
        num_images = draw(st.integers(0, 2)) if role == "user" else 0
        is_list = num_images != 0 or len(said) != 1 or draw(st.booleans())
        turns.append((role, said, num_images, is_list))
    return turns


def as_messages(protocol, turns):
    messages = []
    for role, said, num_images, is_list in turns:
        kind = (
            protocol.text_types[0]
            if role == "user"
            else {"input": "output_text"}.get(protocol.conversation, "text")
        )
        parts = [{"type": kind, "text": words} for words in said]
        parts[1:1] = [image(protocol)] * num_images
        messages.append({"role": role, "content": parts if is_list else said[0]})
    return messages


@PATHS
@settings(max_examples=60, deadline=None)
@given(turns=conversations(), place=st.sampled_from(PromptPlace))
def test_the_users_words_arrive_verbatim_and_nothing_else_changes(path, turns, place):
    protocol = all_protocols()[path]
    sent = as_messages(protocol, turns)
    got, asked_of = forwarded(protocol, sent, place)
    messages = got[protocol.conversation]
    if place is PromptPlace.SYSTEM and messages[0]["role"] == "system":
        messages = messages[1:]
    assert [each["role"] for each in messages] == [each["role"] for each in sent]
    # An image of which nothing is said has the prompt beside it.
    arrived = [words for words in texts(messages) if words != TOLD]
    pairs = list(zip(texts(sent), arrived, strict=True))
    changed = [(before, after) for before, after in pairs if before != after]
    assert all(after == f"{BEFORE} {before} {BEHIND}" for before, after in changed)
    has_images = any(num_images for _, _, num_images, _ in turns)
    assert bool(asked_of) is has_images
    is_said = any(said and num_images for _, said, num_images, _ in turns)
    assert bool(changed) is (is_said and place is PromptPlace.TURN)
    if place is PromptPlace.TURN:
        assert [before for before, _ in changed] == [each for each in asked_of if each]


@PATHS
@settings(max_examples=40, deadline=None)
@given(turns=conversations(), more=conversations())
def test_what_was_sent_before_stays_as_a_conversation_goes_on(path, turns, more):
    """Or an upstream could use nothing of what it keeps of a common beginning."""
    protocol = all_protocols()[path]
    answered = [*turns, ("assistant", ["so"], 0, True)]
    first, _ = forwarded(protocol, as_messages(protocol, answered))
    later, _ = forwarded(protocol, as_messages(protocol, [*answered, *more]))
    assert later[protocol.conversation][: len(answered)] == first[protocol.conversation]


@PATHS
def test_the_prompt_goes_to_the_turn_that_holds_the_image(path):
    protocol = all_protocols()[path]
    question, other = text(protocol, "what is it?"), text(protocol, "and then?")
    asked = f"{BEFORE} what is it? {BEHIND}"
    for turns, told in [
        ([user(question, image(protocol)), user(other)], [asked, "and then?"]),
        ([user(image(protocol)), user(question)], [TOLD, "what is it?"]),
        ([user(other), user(image(protocol), question)], ["and then?", asked]),
        ([user(other, image(protocol), question)], ["and then?", asked]),
        ([user(text(protocol, "  "), image(protocol))], ["  ", TOLD]),
    ]:
        got, _ = forwarded(protocol, turns)
        assert texts(got[protocol.conversation]) == told


def test_the_image_of_a_tool_takes_the_prompt_to_what_was_asked_before():
    protocol = all_protocols()["/v1/responses"]
    turns = [
        user(text(protocol, "look")),
        {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [image(protocol)]},
        {"role": "assistant", "content": "a cat"},
        user(text(protocol, "sure?")),
    ]
    got, _ = forwarded(protocol, turns)
    assert texts(got["input"]) == [f"{BEFORE} look {BEHIND}", "a cat", "sure?"]


@PATHS
@pytest.mark.parametrize("place", PromptPlace)
def test_without_an_image_or_without_a_prompt_nothing_is_said(path, place):
    protocol = all_protocols()[path]
    bare = [user(text(protocol, "hi"))]
    assert forwarded(protocol, bare, place) == ({"model": "m", protocol.conversation: bare}, ())
    turns = [user(text(protocol, "hi"), image(protocol))]
    got, asked_of = forwarded(protocol, turns, None)
    assert (texts(got[protocol.conversation]), asked_of) == (["hi"], ())


OWN = "You are Ann."
PART = {"type": "text", "text": TOLD}


@pytest.mark.parametrize(
    ("path", "sent", "told"),
    [
        ("/v1/messages", {}, {"system": TOLD}),
        ("/v1/messages", {"system": OWN}, {"system": f"{OWN}\n\n{TOLD}"}),
        (
            "/v1/messages",
            {"system": [{"type": "text", "text": OWN, "cache_control": {"type": "ephemeral"}}]},
            {
                "system": [
                    {"type": "text", "text": OWN, "cache_control": {"type": "ephemeral"}},
                    PART,
                ]
            },
        ),
        ("/v1/responses", {}, {"instructions": TOLD}),
        ("/v1/responses", {"instructions": OWN}, {"instructions": f"{OWN}\n\n{TOLD}"}),
        (
            "/v1/responses",
            {"instructions": [{"role": "system", "content": OWN}]},
            {
                "instructions": [
                    {"role": "system", "content": OWN},
                    {"role": "developer", "content": TOLD},
                ]
            },
        ),
    ],
)
def test_behind_the_operators_own_system_prompt(path, sent, told):
    protocol = all_protocols()[path]
    turns = [user(text(protocol, "hi"), image(protocol))]
    got, _ = forwarded(protocol, turns, SYSTEM, **sent)
    assert {name: got[name] for name in told} == told
    assert texts(got[protocol.conversation]) == ["hi"]


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ([], {"role": "system", "content": TOLD}),
        (
            [{"role": "developer", "content": OWN}],
            {"role": "developer", "content": f"{OWN}\n\n{TOLD}"},
        ),
        (
            [{"role": "system", "content": [{"type": "text", "text": OWN}]}],
            {"role": "system", "content": [{"type": "text", "text": OWN}, PART]},
        ),
    ],
)
def test_a_chat_keeps_one_system_message(first, told):
    chat = all_protocols()["/v1/chat/completions"]
    got, _ = forwarded(chat, [*first, user(text(chat, "hi"), image(chat))], SYSTEM)
    assert got["messages"][0] == told
    assert len(got["messages"]) == 2


@PATHS
def test_a_prompt_that_may_say_nothing_adds_no_part(path):
    """A generator's may turn out to be the template, and the template may be the question alone."""
    protocol = all_protocols()[path]
    turns = [user(image(protocol)), user(text(protocol, "hi"), image(protocol))]
    plain = Template("plain", "1", "{question}")
    got, asked_of = forwarded(protocol, turns, prompt=plain, adds_parts=False)
    assert asked_of == ("hi",)
    assert texts(got[protocol.conversation]) == ["hi"]
    assert len(got[protocol.conversation][0]["content"]) == 1


@PATHS
def test_each_question_of_a_conversation_has_its_own_prompt(path):
    protocol = all_protocols()[path]
    asked = ["what is it?", 'and "this"?']
    turns = [user(text(protocol, words), image(protocol)) for words in asked]
    document = {"model": "m", protocol.conversation: turns}
    placing = Placing(PromptPlace.TURN)
    chat = open_chat(json.dumps(document).encode(), protocol, LIMITS, placing, FieldRules())
    images = [(URL.encode(), image.is_source) for image in chat.images]
    prompts = [CALM.with_prefix(f'{n} "\\ü', name="g", version="1") for n in range(2)]
    body = ChatBody(protocol, chat.fragments, images, True, {}, chat.gaps, prompts).body(None)
    told = texts(json.loads(body)[protocol.conversation])
    assert told == ['0 "\\ü what is it?', '1 "\\ü and "this"?']
