"""A real LiteLLM proxy behind the service: `make test-litellm` installs it apart and runs this."""

import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest

from benchmarks.rivals import LITELLM_ENVIRONMENT, run_litellm
from codefend.service.policy import Mode
from codefend.service.protocols.chat import CHAT
from codefend.service.protocols.fields import MEDIA_FIELDS
from tests.fuzz.planted import DATA_URL, PICTURE_MARK, URL_MARK, complaints
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_chat import PATH, image_part, text_part, user

LITELLM = os.environ.get("LITELLM")  # its command
pytestmark = pytest.mark.skipif(not LITELLM, reason="needs LiteLLM: make test-litellm")

KEY = "sk-of-the-proxy"
MODEL = "fixed"
REMOTE = f"https://{URL_MARK}/a.png"
HELLO = {"role": "user", "content": "hi"}
NAMES = Path(__file__).with_name("names.py")


def sees(url):
    return [user(text_part("x"), {"type": "image_url", "image_url": {"url": url}})]


def answer(handler, document):
    head = {"id": "c", "created": 1, "model": MODEL}
    choice = {"index": 0, "finish_reason": "stop"}
    message = {"role": "assistant", "content": "seen"}
    if document.get("stream"):
        chunk = head | {"object": "chat.completion.chunk", "choices": [choice | {"delta": message}]}
        handler.send(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode(), "text/event-stream")
        return
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    body = head | {"object": "chat.completion", "choices": [choice | {"message": message}]}
    handler.send(json.dumps(body | {"usage": usage}).encode(), "application/json")


def refuse(handler, _):
    handler.send(b'{"error": {"message": "broken"}}', "application/json", 500)


@pytest.fixture(scope="module")
def recorder():
    with run_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(recorder):
    with run_litellm(LITELLM, recorder.url, KEY) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(proxy):
    with run_service(make_settings(f"{proxy.url}/v1", upstream_key=KEY)) as service:
        yield service


@pytest.fixture
def model(recorder):
    recorder.bodies.clear()
    recorder.reply = answer
    return recorder


@pytest.fixture(scope="module")
def names():
    python = Path(LITELLM).with_name("python")
    environment = os.environ | LITELLM_ENVIRONMENT
    done = subprocess.run([python, NAMES], env=environment, capture_output=True, check=True)
    return json.loads(done.stdout)


def ask(service, fields, *, stream=False):
    body = {"model": MODEL, "messages": [HELLO], "stream": stream} | fields
    return service.client.post(PATH, json=body)


def arrived(model):
    return [json.loads(body) for body in model.bodies]


WRAPPED = {
    "g1": {"extra_body": {"messages": sees(REMOTE)}},
    "g2": {"extra_body": {"messages": sees(DATA_URL.replace("image/png", ""))}},
    "g3": {"fallbacks": [{"model": MODEL, "messages": sees(DATA_URL)}]},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", WRAPPED)
def test_without_the_guard_the_proxy_lets_it_through(proxy, model, case, stream):
    """The other tests could not fail if it did not."""
    if case == "g3":
        model.reply = lambda handler, document: (
            answer if "image_url" in str(document) else refuse
        )(handler, document)
    body = {"model": MODEL, "messages": [HELLO], "stream": stream, **WRAPPED[case]}
    headers = {"authorization": f"Bearer {KEY}"}
    httpx.post(proxy.url + PATH, json=body, headers=headers, timeout=60)
    assert any(complaints(document) for document in arrived(model))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("reply", [answer, refuse])
@pytest.mark.parametrize("case", WRAPPED)
def test_nothing_of_it_arrives(guarded, model, case, reply, stream):
    model.reply = reply
    response = ask(guarded, WRAPPED[case], stream=stream)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(WRAPPED[case]))
    assert model.bodies == []


@pytest.mark.parametrize("case", ["g1", "g2"])
def test_in_shadow_mode_it_passes_and_is_counted(guarded, model, case):
    counted = guarded.metric("codefend_fields_total", verdict="closed_field")
    with guarded.changed(mode=Mode.SHADOW):
        assert ask(guarded, WRAPPED[case]).status_code == 200
    assert any(complaints(document) for document in arrived(model))
    assert guarded.metric("codefend_fields_total", verdict="closed_field") == counted + 1


def shapes(name):
    """What could be merged under a name, each with a picture or a URL in it."""
    for url in (REMOTE, DATA_URL):
        yield {name: {"messages": sees(url)}}
        yield {name: {name: {"messages": sees(url)}}}
        yield {name: [{"model": MODEL, "messages": sees(url)}]}
        yield {name: sees(url)[0]}
        yield {name: [sees(url)[0]]}
        yield {name: url}
        yield {name: [url]}


def test_nothing_arrives_under_any_name_that_the_proxy_knows(guarded, model, names):
    num_refused = num_forwarded = 0
    for name in {*names[""], "extra_body", "extra_query", "default_fallbacks", "request_body"}:
        for index, shape in enumerate(shapes(name)):
            response = ask(guarded, shape, stream=index % 2 == 1)
            num_refused += response.status_code == 400
            num_forwarded += bool(model.bodies)
            for document in arrived(model):
                assert complaints(document) == [], (name, shape)
            model.bodies.clear()
    assert num_refused > 400
    assert num_forwarded > 10


@pytest.mark.parametrize(
    "name", [REMOTE, f"openai/{MODEL}?{REMOTE}", DATA_URL, f"{MODEL},{REMOTE}", f"//{URL_MARK}/m"]
)
def test_no_address_goes_in_as_a_model(guarded, model, name):
    assert ask(guarded, {"model": name}).status_code == 400
    assert model.bodies == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_sound_chat_with_a_picture_passes_purified(guarded, model, stream):
    question = user(text_part(), image_part(png(seed=3), detail="low"))
    first = {"role": "assistant", "content": "seen", "reasoning_content": "so"}
    fields = {"messages": [question, first, HELLO], "user": "u", "temperature": 0}
    response = ask(guarded, fields, stream=stream)
    assert response.status_code == 200
    assert "seen" in response.text
    (document,) = arrived(model)
    part = document["messages"][0]["content"][1]["image_url"]
    sent = question["content"][1]["image_url"]["url"]
    assert part["url"].startswith("data:image/png;base64,")
    assert part["url"] != sent
    assert PICTURE_MARK not in str(document)


def find(path):
    """The table at a place."""
    place = CHAT
    for step in path.split(".") if path else ():
        name, _, kind = step.partition("=")
        place = place.fields[name].place
        if kind:
            place = place.places[kind]
    return place


def test_the_table_has_every_name_of_litellms_types(names):
    lacking = []
    for path, known in names.items():
        place = find(path)
        pattern = place.closed_names
        lacking += [
            f"{path}.{name}".lstrip(".")
            for name in known
            if name not in {*place.fields, *MEDIA_FIELDS}
            and not (pattern and pattern.fullmatch(name.casefold()))
        ]
    assert lacking == []
