"""POST /v1/messages with Anthropic's own client: what the upstream gets, what the client gets."""

import base64
import json

import anthropic
import numpy as np
import pytest

from tests.service.pictures import picture, pixels_of, png
from tests.service.running import make_settings, run_service
from tests.service.test_chat import BAD
from tests.service.test_chat_stream import write_all
from tests.service.test_openai_client import answer_with

KEY = "a-key-of-ours"
TEXT = {"type": "text", "text": "what is it?"}
TOOL = {"name": "look", "input_schema": {"type": "object"}}
USAGE = {"input_tokens": 7, "output_tokens": 3}
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "text", "text": "a red car"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "it"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": USAGE,
}


def named(kind, **fields):
    """An event as Anthropic's servers write it."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


BEGIN = [
    named("message_start", message=ANSWER | {"content": [], "stop_reason": None}),
    named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    named("ping"),
    named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a red"}),
    named("content_block_delta", index=0, delta={"type": "text_delta", "text": " car"}),
    named("content_block_stop", index=0),
]
LAST = named("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=USAGE)
STOP = named("message_stop")


def image(file, media_type="image/png"):
    data = base64.b64encode(file).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


MESSAGES = [{"role": "user", "content": [TEXT, image(png(40, 56, seed=1), "image/jpeg")]}]


@pytest.fixture(scope="module")
def service_with_key(session_upstream):
    settings = make_settings(
        session_upstream.url, api_keys=KEY, upstream_key="upstream-secret", cache_bytes=1 << 20
    )
    with run_service(settings) as service:
        yield service


@pytest.fixture
def client(service_with_key, upstream):
    with connect(service_with_key) as client:
        yield client


def connect(service, **fields):
    fields = {"api_key": KEY, "max_retries": 0, "timeout": 60} | fields
    return anthropic.Anthropic(base_url=service.url, **fields)


def ask(client, messages=MESSAGES, **fields):
    return client.messages.create(model="m", max_tokens=99, messages=messages, **fields)


def forwarded(upstream):
    return json.loads(upstream.bodies[-1])


def pixels_in(block):
    assert (block["source"]["type"], block["source"]["media_type"]) == ("base64", "image/png")
    return pixels_of(base64.b64decode(block["source"]["data"]))


def test_an_answer_about_a_picture_and_a_second_turn_with_another(client, upstream):
    answer_with(upstream, ANSWER)
    message = ask(client, system="be brief", tools=[TOOL])
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.usage.output_tokens == 3
    (told,) = message.model_extra["codefend"]["images"]
    assert told["param"] == "messages[0].content[1].source.data"
    got = forwarded(upstream)
    assert np.array_equal(pixels_in(got["messages"][0]["content"][1]), 255 - picture(40, 56, 1))
    assert (got["system"], got["tools"], got["max_tokens"]) == ("be brief", [TOOL], 99)

    shown = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image(png(seed=2))]}
    turn = {"role": "assistant", "content": message.content}
    message = ask(client, [*MESSAGES, turn, {"role": "user", "content": [shown]}], tools=[TOOL])
    assert len(message.model_extra["codefend"]["images"]) == 2
    got = forwarded(upstream)["messages"]
    assert np.array_equal(pixels_in(got[2]["content"][0]["content"][0]), 255 - picture(seed=2))
    assert got[1]["content"][2]["input"] == {"at": "it"}


def test_a_stream_arrives_whole_and_its_last_delta_tells(client, upstream):
    upstream.reply = write_all(*BEGIN, LAST, named("ping"), STOP)
    with client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == "a red car"
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 3)
    events = list(ask(client, stream=True))
    (delta,) = [event for event in events if event.type == "message_delta"]
    assert len(delta.model_extra["codefend"]["images"]) == 1
    assert events[-1].type == "message_stop"


def test_a_stream_changes_by_the_object_alone(service, upstream):
    sent = [*BEGIN, LAST, named("ping"), STOP]
    upstream.reply = write_all(*sent)
    body = {"model": "m", "max_tokens": 9, "messages": MESSAGES, "stream": True}
    passed = service.client.post("/v1/messages", json=body).content
    begin = passed.index(b',"codefend":')
    end = passed.index(b"\n", begin) - 1
    assert passed[:begin] + passed[end:] == b"".join(sent)


def test_tokens_are_counted_with_the_purified_picture_which_is_known_afterwards(client, upstream):
    answer_with(upstream, {"input_tokens": 11})
    messages = [{"role": "user", "content": [TEXT, image(png(seed=9))]}]
    count = client.messages.count_tokens(model="m", messages=messages)
    assert count.input_tokens == 11
    (told,) = count.model_extra["codefend"]["images"]
    counted = forwarded(upstream)["messages"]
    assert np.array_equal(pixels_in(counted[0]["content"][1]), 255 - picture(seed=9))
    answer_with(upstream, ANSWER)
    (again,) = ask(client, messages).model_extra["codefend"]["images"]
    assert not told["defense"]["cached"]
    assert again["defense"]["cached"]
    assert forwarded(upstream)["messages"] == counted


HEADERS = "anthropic-version", "anthropic-beta", "x-api-key", "Authorization"


def sent_headers(upstream):
    sent = {name.lower(): value for name, value in upstream.headers[-1].items()}
    return [sent.get(name.lower()) for name in HEADERS]


@pytest.mark.parametrize(
    ("sent", "version", "betas"),
    [
        ({}, "2023-06-01", None),
        ({"anthropic-version": "2024-01-01"}, "2024-01-01", None),
        ({"anthropic-version": "latest; x"}, "2023-06-01", None),
        ({"anthropic-beta": "files-api-2025-04-14"}, "2023-06-01", None),
        ({"anthropic-beta": "claude-code-20250219,mcp-client-2025-04-04, pdfs-2024-09-25,"
          "interleaved-thinking-2025-05-14,web-fetch-2025-09-10,code-execution-2025-08-25"},
         "2023-06-01", "claude-code-20250219,interleaved-thinking-2025-05-14"),
        ({"anthropic-beta": "effort-2025-11-24\u00e9,effort,https://a.example/-2025-11-24"},
         "2023-06-01", None),
    ],
)  # fmt: skip
def test_of_anthropics_headers_those_pass_that_bring_in_no_picture(
    service_with_key, upstream, sent, version, betas
):
    answer_with(upstream, ANSWER)
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"x-api-key": KEY} | {name: value.encode("latin-1") for name, value in sent.items()}
    response = service_with_key.client.post("/v1/messages", json=body, headers=headers)
    assert response.status_code == 200
    expected = [version, betas, "upstream-secret", "Bearer upstream-secret"]
    assert sent_headers(upstream) == expected
    assert KEY not in str(upstream.headers[-1])


def test_betas_in_two_headers_are_read_as_one_list(service_with_key, upstream):
    answer_with(upstream, ANSWER)
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    betas = ["effort-2025-11-24", "context-1m-2025-08-07"]
    headers = [("x-api-key", KEY), *(("anthropic-beta", beta) for beta in betas)]
    service_with_key.client.post("/v1/messages", json=body, headers=headers)
    assert sent_headers(upstream)[1] == ",".join(betas)


def test_either_key_opens_every_path(service_with_key, upstream):
    with connect(service_with_key, api_key=None, auth_token=KEY) as by_token:
        answer_with(upstream, ANSWER)
        assert ask(by_token).content
    headers = {"x-api-key": KEY}
    assert service_with_key.client.get("/v1/models", headers=headers).status_code == 200


PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}}


def refused_by(error):
    """The error of a client's exception."""
    body = error.value.body
    assert body["type"] == "error"
    assert body["request_id"] == error.value.response.headers["x-request-id"]
    return body["error"]


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        ([PDF], "closed_field", "messages[0].content[0].source.type"),
        ([image(b"no picture")], "unsupported_image", "messages[0].content[0].source.data"),
        ([{"type": "image", "source": {"type": "url", "url": "https://a.example/b"}}],
         "remote_image", "messages[0].content[0].source.url"),
    ],
)  # fmt: skip
def test_a_refusal_is_an_exception_of_the_clients(client, upstream, content, code, param):
    num_asked = len(upstream.bodies)
    for stream in (False, True):
        with pytest.raises(anthropic.APIStatusError) as error:
            ask(client, [{"role": "user", "content": content}], stream=stream)
        refusal = refused_by(error)
        assert (refusal["type"], refusal["code"]) == ("invalid_request_error", code)
        assert refusal["param"] == param
    assert len(upstream.bodies) == num_asked


def test_admission_refuses_in_the_same_shape(service_with_key, upstream):
    with (
        connect(service_with_key, api_key="wrong") as client,
        pytest.raises(anthropic.AuthenticationError) as error,
    ):
        ask(client)
    assert refused_by(error)["type"] == "authentication_error"
    response = service_with_key.client.get("/v1/messages", headers={"x-api-key": KEY})
    assert (response.status_code, response.json()["type"]) == (405, "error")


def test_an_image_that_cannot_be_purified_is_not_forwarded(client, upstream):
    with pytest.raises(anthropic.InternalServerError) as error:
        ask(client, [{"role": "user", "content": [image(BAD)]}])
    assert refused_by(error)["type"] == "overloaded_error"


@pytest.mark.parametrize(
    ("status", "kind", "name"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.RequestTooLargeError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.RateLimitError, "rate_limit_error"),
    ],
)
def test_an_upstreams_error_keeps_its_kind_and_none_of_its_words(
    client, upstream, status, kind, name
):
    answer_with(upstream, {"type": "error", "error": {"message": "at /srv/secret"}}, status)
    with pytest.raises(kind) as error:
        ask(client)
    assert refused_by(error)["type"] == name
    assert "secret" not in str(error.value)


SECRET = {"message": "at /srv/secret"}


@pytest.mark.parametrize(
    ("events", "kind", "code"),
    [
        ([], "api_error", "upstream_error"),
        ([STOP], "api_error", "upstream_error"),
        ([named("error", error=SECRET | {"type": "overloaded_error"})], "overloaded_error",
         "overloaded_error"),
        ([named("error", error=SECRET)], "api_error", "upstream_error"),
        ([b'data: {"type": "error", "error": {"message": "at /srv/secret"}}\n\n'], "api_error",
         "upstream_error"),
        ([named("message_delta", secret=1)], "api_error", "upstream_error"),
    ],
)  # fmt: skip
def test_a_stream_that_breaks_off_ends_with_an_error_of_anthropics(
    client, upstream, events, kind, code
):
    upstream.reply = write_all(*BEGIN, *events)
    seen = []
    with pytest.raises(anthropic.APIStatusError) as error:
        seen.extend(ask(client, stream=True))
    assert [event.type for event in seen][:2] == ["message_start", "content_block_start"]
    refusal = refused_by(error)
    assert (refusal["type"], refusal["code"]) == (kind, code)
    assert "secret" not in json.dumps(error.value.body)


@pytest.mark.parametrize("answer", [{"type": "error"}, {"content": "x"}, {"content": ["x"]}, []])
def test_an_answer_that_is_no_message_is_an_error(client, upstream, answer):
    answer_with(upstream, answer)
    with pytest.raises(anthropic.APIStatusError) as error:
        ask(client)
    assert error.value.status_code == 502


@pytest.mark.parametrize("count", [{"input_tokens": "9"}, {"input_tokens": True}, {}, [9]])
def test_a_count_that_is_no_number_is_an_error(client, upstream, count):
    answer_with(upstream, count)
    with pytest.raises(anthropic.APIStatusError) as error:
        client.messages.count_tokens(model="m", messages=MESSAGES)
    assert error.value.status_code == 502
