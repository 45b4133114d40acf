"""The plug-in in a real LiteLLM proxy: purified images alone reach the model, on every route.

`make test-litellm` runs this. The model records what it gets, and the guard is the service itself
with a purifier that signs its work, behind something that can fail for it.
"""

import base64
import json
import os
import re
import secrets
import subprocess
import time
from contextlib import suppress
from itertools import islice, product
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from benchmarks.rivals import LITELLM_ENVIRONMENT, run_configured_litellm
from tests.deploy.test_litellm_guard import CONFIG, FILE, REFUSED, SKIPPING, in_chat
from tests.fuzz.planted import DATA_URL, PICTURE, PICTURE_MARK, URL_MARK
from tests.litellm.test_litellm import shapes
from tests.service.canary import IMPORT_PATH, read_canary, read_signature
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import pixels_of
from tests.service.running import make_settings, run_service
from tests.service.spoken import CHAT as SPOKEN_CHAT
from tests.service.spoken import Owner

LITELLM = os.environ.get("LITELLM")  # its command
pytestmark = pytest.mark.skipif(not LITELLM, reason="needs LiteLLM: make test-litellm")

KEY = "sk-of-the-proxy"
TIMEOUT_S = 5
REMOTE = f"https://{URL_MARK}/a.png"
FILE_OF_FORM = base64.b64decode(PICTURE)
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


# The model.


def events(*documents, named):
    lines = (
        (f"event: {each['type']}\n" if named else "") + f"data: {json.dumps(each)}\n\n"
        for each in documents
    )
    return "".join(lines)


def chat(document):
    head = {"id": "c", "created": 1, "model": "m"}
    choice, said = {"index": 0, "finish_reason": "stop"}, {"role": "assistant", "content": "seen"}
    if document.get("stream"):
        chunk = head | {"object": "chat.completion.chunk", "choices": [choice | {"delta": said}]}
        return events(chunk, named=False) + "data: [DONE]\n\n"
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choices = [choice | {"message": said}]
    return head | {"object": "chat.completion", "choices": choices, "usage": usage}


def responses(document):
    part = {"type": "output_text", "text": "seen", "annotations": []}
    item = {"type": "message", "id": "i", "role": "assistant", "status": "completed"}
    answer = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed"}
    answer |= {"model": "m", "output": [item | {"content": [part]}], "usage": USAGE}
    answer |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    if not document.get("stream"):
        return answer
    delta = {"type": "response.output_text.delta", "item_id": "i", "output_index": 0}
    delta |= {"content_index": 0, "delta": "seen", "sequence_number": 1}
    created = {"type": "response.created", "response": answer, "sequence_number": 0}
    completed = {"type": "response.completed", "response": answer, "sequence_number": 2}
    return events(created, delta, completed, named=True)


def messages(document):
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude"}
    answer |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": USAGE}
    if not document.get("stream"):
        said = {"content": [{"type": "text", "text": "seen"}], "stop_reason": "end_turn"}
        return answer | said
    return events(
        {"type": "message_start", "message": answer},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "seen"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE},
        {"type": "message_stop"},
        named=True,
    )


def reply(handler, document):
    speak = {"responses": responses, "messages": messages}
    answer = speak.get(handler.path.split("?")[0].rpartition("/")[2], chat)(document)
    if isinstance(answer, str):
        handler.send(answer.encode(), "text/event-stream")
    else:
        handler.send(json.dumps(answer).encode(), "application/json")


# What stands round the model: the proxy, and the guard that it asks.


@pytest.fixture(scope="module")
def recorder():
    with run_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def signature():
    return secrets.token_hex(16)


@pytest.fixture(scope="module")
def service(signature):
    settings = make_settings(engine=IMPORT_PATH, engine_options={"key": signature})
    with run_service(settings) as running:
        yield running


@pytest.fixture(scope="module")
def gate(service):
    """In front of the service; a test may have it answer in another way."""
    with run_upstream() as server:
        yield server


def run_proxy(recorder, gate, general):
    base = recorder.url
    parameters = {
        "m": {"model": "openai/m", "api_base": base, "api_key": "k"},
        "claude": {"model": "anthropic/claude", "api_base": base[:-3], "api_key": "k"},
    }
    names = [{"model_name": name, "litellm_params": each} for name, each in parameters.items()]
    router = {"num_retries": 0, "allowed_fails": 10**6, "disable_cooldowns": True}
    config = {
        "model_list": names,
        "general_settings": {"master_key": KEY} | general,
        "litellm_settings": CONFIG["litellm_settings"] | {"telemetry": False},
        "router_settings": router,
    }
    variables = {
        "CODEFEND_GUARD_URL": gate.url,
        "CODEFEND_GUARD_TIMEOUT_S": str(TIMEOUT_S),
        "ANTHROPIC_API_BASE": base[:-3],
        "ANTHROPIC_API_KEY": "k",
        "OPENAI_API_BASE": base,
        "OPENAI_API_KEY": "k",
        "VLLM_API_BASE": base,
    }
    return run_configured_litellm(LITELLM, config, variables=variables, modules=[FILE])


@pytest.fixture(scope="module")
def closed(recorder, gate):
    """As documented."""
    with run_proxy(recorder, gate, CONFIG["general_settings"]) as server:
        yield server


@pytest.fixture(scope="module")
def opened(recorder, gate):
    """Every route of LiteLLM is there."""
    with run_proxy(recorder, gate, {}) as server:
        yield server


@pytest.fixture
def model(recorder):
    recorder.bodies.clear()
    recorder.reply = reply
    return recorder


@pytest.fixture
def guard(gate, service):
    gate.bodies.clear()

    def relay(handler, document):
        answer = service.client.post("/v1/guardrail", json=document)
        handler.send(answer.content, "application/json", answer.status_code)

    gate.reply = relay
    return gate


@pytest.fixture(scope="module")
def client():
    with httpx.Client(headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


@pytest.fixture
def post(client):
    def post(proxy, path, body, *, stream=False):
        named = {"model": "claude" if "/messages" in path else "m", "stream": stream} | body
        return client.post(proxy.url + path, json=named)

    return post


# What a client sends in each protocol, with an owner's images in every place.


def to_responses(owner):
    image = lambda **more: {"type": "input_image", "image_url": owner.url()} | more  # noqa: E731
    text = {"type": "input_text", "text": f"owner-{owner.id}"}
    called = {"type": "function_call", "call_id": "t", "name": "look", "arguments": "{}"}
    return {
        "instructions": "Look.",
        "input": [
            {"role": "system", "content": [image()]},
            {"type": "message", "role": "user", "content": [image(), text, image(detail="high")]},
            called,
            {"type": "function_call_output", "call_id": "t", "output": [text, image()]},
        ],
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}}],
    }


def to_messages(owner):
    text = {"type": "text", "text": f"owner-{owner.id}"}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text, owner.block()]}
    used = {"type": "tool_use", "id": "t", "name": "look", "input": {"url": "https://a.example"}}
    return {
        "max_tokens": 9,
        "system": [text],
        "messages": [
            {"role": "user", "content": [owner.block(), text, owner.block()]},
            {"role": "assistant", "content": [used]},
            {"role": "user", "content": [result]},
        ],
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
    }


CHATS = {
    name: lambda owner, shape=shape: {"messages": shape(owner)}
    for name, shape in SPOKEN_CHAT.shapes.items()
}
SENT = {(CHAT, name): make for name, make in CHATS.items()} | {
    (RESPONSES, "every place"): to_responses,
    (MESSAGES, "every place"): to_messages,
    ("/anthropic/v1/messages", "passed through"): to_messages,
    ("/openai/v1/chat/completions", "passed through"): CHATS["images and texts in turns"],
    (CHAT, "extra_body"): lambda owner: {
        "messages": [{"role": "user", "content": "hi"}],
        "extra_body": {"messages": [{"role": "user", "content": [owner.image()]}]},
    },
}


def images_in(value):
    """Files of all images of a document, wherever they stand."""
    if isinstance(value, str) and value.startswith("data:"):
        yield base64.b64decode(value.partition(",")[2])
    elif isinstance(value, dict) and value.get("type") == "base64":
        yield base64.b64decode(value["data"])
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from images_in(entry)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", SENT, ids="/".join)
def test_purified_images_arrive(closed, opened, post, model, guard, signature, case, stream):
    path, _ = case
    owner = Owner()
    proxy = closed if path in CONFIG["general_settings"]["allowed_routes"] else opened
    response = post(proxy, path, SENT[case](owner), stream=stream)
    assert response.status_code == 200, response.text
    assert "seen" in response.text
    (body,) = model.bodies
    pictures = [pixels_of(file) for file in images_in(json.loads(body))]
    assert None not in {read_signature(pixels, signature) for pixels in pictures}
    seen = sorted(read_canary(pixels) for pixels in pictures)
    assert seen == [(owner.id, number) for number in range(owner.num_images)]


# Where the guard fails, nothing passes.


def close(handler, _):
    handler.close_connection = True


def dribble(handler, _):
    handler.begin_stream()
    for _ in range(4 * TIMEOUT_S):
        time.sleep(0.5)
        handler.wfile.write(b" ")


def answers(document, status=200):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return lambda handler, _: handler.send(body, "application/json", status)


def error(message, param, status):
    detail = {"message": message, "type": "t", "param": param, "code": "c"}
    return answers({"error": detail}, status)


PURIFIED = "data:image/png;base64,aGk="
FAILURES = {
    "closes": (close, 503, "does not answer"),
    "dribbles": (dribble, 503, "does not answer"),
    "no JSON": (answers(b"<html>"), 503, "does not answer"),
    "a list": (answers([]), 503, "cannot serve"),
    "no verdict": (answers({"images": [PURIFIED]}), 503, "cannot serve"),
    "another verdict": (answers({"verdict": "ok", "images": [PURIFIED]}), 503, "cannot serve"),
    "too few images": (answers({"verdict": "modify", "images": []}), 503, "cannot serve"),
    "no images": (answers({"verdict": "allow"}), 503, "cannot serve"),
    "a URL": (answers({"verdict": "modify", "images": ["http://a.b/c"]}), 503, "cannot serve"),
    "a redirect": (answers({}, 307), 503, "cannot serve"),
    "wrong key": (error("Send a valid API key.", None, 401), 503, "cannot serve"),
    "busy": (error("At capacity.", None, 429), 503, "cannot serve"),
    "fails": (error("Not ready.", None, 503), 503, "cannot serve"),
    "denies": (answers({"verdict": "deny", "images": [], "reason": "Altered."}), 400, "Altered."),
    "damaged": (error("It is damaged.", "images[0]", 400), 400, r"messages\[0\]\.content\[1\]"),
    "too large": (error("It is too large.", "images[0]", 413), 400, "It is too large."),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", FAILURES)
def test_where_the_guard_fails_nothing_passes(closed, post, model, guard, case, stream):
    guard.reply, status, message = FAILURES[case]
    response = post(closed, CHAT, CHATS["one image"](Owner()), stream=stream)
    assert response.status_code == status
    assert re.search(message, response.json()["error"]["message"])
    assert model.bodies == []


@pytest.mark.parametrize("case", [key for key in SENT if key[0] != CHAT], ids="/".join)
def test_nor_in_another_protocol(closed, opened, post, model, guard, case):
    guard.reply = close
    proxy = closed if case[0] in CONFIG["general_settings"]["allowed_routes"] else opened
    response = post(proxy, case[0], SENT[case](Owner()))
    assert response.status_code == 503
    assert "does not answer" in response.text
    assert model.bodies == []


def test_texts_need_no_guard(closed, post, model, guard):
    guard.reply = close
    response = post(closed, CHAT, {"messages": [{"role": "user", "content": "hi"}]})
    assert response.status_code == 200
    assert (len(model.bodies), guard.bodies) == (1, [])


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(closed, post, model, guard, case):
    response = post(closed, CHAT, in_chat(REFUSED[case]))
    assert response.status_code == 400
    assert model.bodies == []


# Routes that call the hook, and hold images in other ways: refused where they are opened.


GEMINI = {"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": PICTURE}}]}]}
DOCUMENT = {"type": "document_url", "document_url": REMOTE}
FORM = {"model": "m", "prompt": "p"}
ELSEWHERE = {
    "embeddings": ("/v1/embeddings", {"json": {"model": "m", "input": [DATA_URL]}}),
    "embeddings of a URL": ("/v1/embeddings", {"json": {"model": "m", "input": f"https://{URL_MARK}"}}),
    "reranking": ("/v1/rerank", {"json": {"model": "m", "query": "q", "documents": [PICTURE]}}),
    "completions": ("/v1/completions", {"json": {"model": "m", "prompt": [DATA_URL]}}),
    "Gemini's": ("/v1beta/models/m:generateContent", {"json": GEMINI}),
    "Gemini's, passed through": ("/gemini/v1beta/models/m:generateContent", {"json": GEMINI}),
    "edits": ("/v1/images/edits", {"data": FORM, "files": {"image": FILE_OF_FORM}}),
    "audio": ("/v1/audio/transcriptions", {"data": FORM, "files": {"file": FILE_OF_FORM}}),
    "OCR": ("/v1/ocr", {"json": {"model": "m", "document": DOCUMENT}}),
}  # fmt: skip


@pytest.mark.parametrize("case", ELSEWHERE)
def test_other_routes_that_call_it_are_refused_what_they_could_load(
    opened, client, model, guard, case
):
    path, fields = ELSEWHERE[case]
    response = client.post(opened.url + path, **fields)
    assert response.status_code == 400, response.text
    assert model.bodies == []


# Nothing goes round it.


def test_without_the_documented_list_an_original_goes_round_it(opened, post, model, guard):
    """What is tested below could not fail if it did not."""
    owner = Owner()
    post(opened, "/v1/messages/count_tokens", to_messages(owner))
    (body,) = model.bodies
    assert [read_canary(pixels_of(file))[0] for file in images_in(json.loads(body))] == [
        owner.id
    ] * 3


@pytest.mark.parametrize("path", ["/v1/responses", "/responses"])
def test_a_path_that_is_listed_is_no_socket(closed, model, guard, path):
    """It has the same name as the one over HTTP."""
    address = closed.url.replace("http", "ws") + path + "?model=m"
    headers = {"authorization": f"Bearer {KEY}"}
    created = {"type": "response.create", "model": "m"} | to_responses(Owner())
    heard = ""
    with (
        suppress(ConnectionClosed, InvalidStatus),
        connect(address, additional_headers=headers) as socket,
    ):
        socket.send(json.dumps(created))
        while True:
            heard += socket.recv(timeout=10)
    assert "seen" not in heard
    assert model.bodies == []


def run_in_litellm(name):
    script = Path(__file__).with_name(name)
    environment = os.environ | LITELLM_ENVIRONMENT
    python = Path(LITELLM).with_name("python")
    done = subprocess.run([python, script], env=environment, capture_output=True, check=True)
    return json.loads(done.stdout)


def test_nothing_arrives_under_any_name_that_the_proxy_knows(closed, post, model, guard):
    num_refused = 0
    for name in {*run_in_litellm("names.py")[""], "extra_body", "extra_query", "request_body"}:
        for index, shape in enumerate(islice(shapes(name), 0, None, 3)):
            body = {"messages": [{"role": "user", "content": "hi"}]} | shape
            response = post(closed, CHAT, body, stream=index % 2 == 1)
            num_refused += response.status_code == 400
            for arrived in map(bytes.decode, model.bodies):
                assert PICTURE_MARK not in arrived, (name, shape)
                assert f'"url":"https://{URL_MARK}' not in arrived.replace(" ", ""), (name, shape)
            model.bodies.clear()
    assert num_refused > 300


@pytest.fixture(scope="module")
def routes():
    return run_in_litellm("routes.py")


def test_the_routes_that_skip_it_are_documented(routes):
    assert {route["path"] for route in routes if not route["calls_hooks"]} == SKIPPING


def everywhere(owner):
    """A body with images in every place that any route could read."""
    image, part = owner.url(), owner.image()
    user = {"role": "user", "content": [part, owner.block()]}
    inline = {"inline_data": {"mime_type": "image/png", "data": image.partition(",")[2]}}
    said = [{"role": "user", "content": [{"type": "input_image", "image_url": image}]}]
    return {
        "model": "claude", "max_tokens": 9, "messages": [user], "input": said, "prompt": image,
        "contents": [{"parts": [inline]}], "query": image, "documents": [image], "image": image,
        "content": user["content"], "role": "user", "document": image, "images": [image],
    }  # fmt: skip


def test_no_route_carries_an_original(closed, client, model, guard, routes):
    """Files of forms included; what is refused is refused before the model is asked."""
    allowed = CONFIG["general_settings"]["allowed_routes"]
    for route in routes:
        if route["methods"] == ["WS"]:
            continue
        body, method = everywhere(Owner()), route["methods"][-1]
        sent = list(images_in(body))
        url = closed.url + re.sub(r"\{[^}]*\}", "claude", route["path"])
        form = {"data": {"model": "m"}, "files": {"image": sent[0]}}
        for fields in ({"json": body}, form):
            response = client.request(method, url, **fields)
            if route["path"] not in allowed:  # /mcp has checks of its own, and some are gone
                assert not response.is_success, url
            for file, arrived in product(sent, model.bodies):
                assert file not in arrived, url
                assert base64.b64encode(file) not in arrived, url
            model.bodies.clear()
