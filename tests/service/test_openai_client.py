"""The official client with nothing changed but its base URL: answers, streams and exceptions."""

import json

import openai
import pytest

from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_chat import image_part, text_part, user
from tests.service.test_chat_stream import DONE, chunk, event, write_all

KEY = "a-key-of-ours"
MESSAGES = [user(text_part(), image_part(png(seed=1)), image_part(png(seed=2), detail="low"))]
CHOICE = {
    "index": 0,
    "message": {"role": "assistant", "content": "a red car", "refusal": None},
    "logprobs": {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]},
    "finish_reason": "stop",
}
COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 3,
    "model": "m",
    "choices": [CHOICE, CHOICE | {"index": 1}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
}


@pytest.fixture(scope="module")
def service_with_key(session_upstream):
    settings = make_settings(session_upstream.url, api_keys=KEY, upstream_key="upstream-secret")
    with run_service(settings) as service:
        yield service


@pytest.fixture
def client(service_with_key, upstream):
    yield from connect(service_with_key)


def connect(service, key=KEY):
    base_url = f"{service.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=60) as client:
        yield client


def answer_with(upstream, document, status=200, headers=()):
    content = json.dumps(document).encode()
    upstream.reply = lambda handler, _: handler.send(content, "application/json", status, headers)


def ask(client, messages=None, **fields):
    return client.chat.completions.create(model="m", messages=messages or MESSAGES, **fields)


def test_a_chat_about_several_images(client, upstream):
    answer_with(upstream, COMPLETION)
    completion = ask(client, n=2, logprobs=True, extra_body={"codefend": {"return_image": True}})
    assert [choice.message.content for choice in completion.choices] == ["a red car"] * 2
    assert completion.choices[0].logprobs.content[0].logprob == -0.5
    assert completion.usage.total_tokens == 4
    told = completion.model_extra["codefend"]["images"]
    assert len(told) == 2
    assert all(image["purified_image"].startswith("data:image/png") for image in told)
    assert upstream.headers[-1]["Authorization"] == "Bearer upstream-secret"
    assert KEY not in str(upstream.headers)


def test_tools(client, upstream):
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer_with(upstream, COMPLETION | {"choices": [CHOICE | {"message": message}]})
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    completion = ask(client, tools=[tool], tool_choice="auto")
    assert completion.choices[0].message.tool_calls[0].function.name == "look"
    result = {"role": "tool", "tool_call_id": "t1", "content": [image_part(png(seed=3))]}
    answer_with(upstream, COMPLETION)
    answer = ask(client, [*MESSAGES, completion.choices[0].message, result])
    assert len(answer.model_extra["codefend"]["images"]) == 3


def test_a_stream_read_as_the_clients_own_examples_read_it(client, upstream):
    words = [event(chunk(word)) for word in ("a", " red", " car")]
    upstream.reply = write_all(*words, event(chunk(reason="stop")), DONE)
    chunks = list(ask(client, stream=True))
    # No chunk without choices: most programs take the first one unseen.
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a red car"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len(chunks[-1].model_extra["codefend"]["images"]) == 2
    assert all("codefend" not in chunk.model_extra for chunk in chunks[:-1])


def test_a_stream_that_breaks_off_raises(client, upstream):
    upstream.reply = write_all(event(chunk("a")), event({"error": {"message": "at /srv/secret"}}))
    stream = ask(client, stream=True)
    assert next(stream).choices[0].delta.content == "a"
    with pytest.raises(openai.APIError) as raised:
        next(stream)
    assert raised.value.code == "upstream_error"
    assert "secret" not in str(raised.value)


def test_models(client, upstream):
    assert [model.id for model in client.models.list()] == ["first-model"]


@pytest.mark.parametrize(
    ("status", "exception"),
    [
        (400, openai.BadRequestError),
        (401, openai.InternalServerError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_upstream_refuses_raises_what_it_would_raise(
    client, upstream, status, exception, stream
):
    document = {"error": {"message": "at /srv/secret", "type": "secret", "code": "secret"}}
    answer_with(upstream, document, status, [("retry-after", "7")])
    with pytest.raises(exception) as raised:
        ask(client, stream=stream)
    assert "secret" not in str(raised.value)
    assert set(raised.value.body) == {"message", "type", "param", "code"}
    assert raised.value.request_id
    if status in {429, 503}:
        assert raised.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("messages", "fields", "exception", "code", "param"),
    [
        ([user({"type": "file", "file": {"file_id": "x"}})], {}, openai.BadRequestError,
         "unsupported_content", "messages[0].content[0].type"),
        ([user({"type": "image_url", "image_url": {"url": "https://a.b/c.png"}})], {},
         openai.BadRequestError, "remote_image", "messages[0].content[0].image_url.url"),
        ([user(image_part(b"no image"))], {}, openai.APIStatusError,
         "unsupported_image", "messages[0].content[0].image_url.url"),
        (None, {"n": 1000}, openai.BadRequestError, "invalid_field", "n"),
    ],
)  # fmt: skip
def test_what_the_service_refuses(client, upstream, messages, fields, exception, code, param):
    with pytest.raises(exception) as raised:
        ask(client, messages, **fields)
    assert (raised.value.code, raised.value.param) == (code, param)
    assert upstream.bodies == []


def test_a_wrong_key(service_with_key, upstream):
    for client in connect(service_with_key, "wrong"):
        with pytest.raises(openai.AuthenticationError):
            ask(client)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    assert (upstream.bodies, upstream.headers) == ([], [])


def test_other_endpoints_do_not_exist(client, upstream):
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="m", input="x")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="m", prompt="x")
    assert upstream.bodies == []


def test_a_service_that_drains(client, service_with_key):
    service_with_key.runtime.limiter.is_draining = True
    try:
        with pytest.raises(openai.InternalServerError) as raised:
            ask(client)
    finally:
        service_with_key.runtime.limiter.is_draining = False
    assert raised.value.status_code == 503
    assert raised.value.response.headers["retry-after"]


def test_a_dead_upstream(session_upstream):
    with run_service(make_settings("http://127.0.0.1:9/v1")) as service:
        for client in connect(service, "any"):
            with pytest.raises(openai.InternalServerError) as raised:
                ask(client)
            assert raised.value.code == "upstream_error"
            assert service.client.get("/readyz").status_code == 200
