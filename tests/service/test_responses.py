"""POST /v1/responses with the official client: images, streams, second turns and refusals."""

import base64
import json

import numpy as np
import openai
import pytest

from codefend.service.policy import Mode
from tests.service.pictures import picture, pixels_of, png
from tests.service.running import make_settings, run_service

pytestmark = pytest.mark.slow

KEYS = ("a-key-of-one", "a-key-of-two")
IMAGE = {
    "type": "input_image",
    "detail": "auto",
    "image_url": f"data:image/png;base64,{base64.b64encode(png(40, 56, seed=1)).decode()}",
}
QUESTION = [{"role": "user", "content": [{"type": "input_text", "text": "what is it?"}, IMAGE]}]


@pytest.fixture(scope="module")
def keyed_service(session_upstream):
    with run_service(make_settings(session_upstream.url, api_keys=",".join(KEYS))) as service:
        yield service


@pytest.fixture
def clients(keyed_service, upstream):
    made = [
        openai.OpenAI(base_url=f"{keyed_service.url}/v1", api_key=key, max_retries=0)
        for key in KEYS
    ]
    yield made
    for client in made:
        client.close()


def forwarded(upstream):
    return json.loads(upstream.bodies[-1])


def test_an_image_arrives_purified_and_the_answer_says_so(clients, upstream):
    answer = clients[0].responses.create(model="m", input=QUESTION, instructions="be brief")
    assert answer.output_text == "a red car"
    assert answer.codefend["images"][0]["param"] == "input[0].content[1].image_url"
    sent = forwarded(upstream)
    url = sent["input"][0]["content"][1]["image_url"]
    arrived = pixels_of(base64.b64decode(url.partition(",")[2]))
    assert np.array_equal(arrived, 255 - picture(40, 56, seed=1))
    assert sent["instructions"] == "be brief"


def test_a_stream_tells_in_its_last_event(clients, upstream):
    events = list(clients[0].responses.create(model="m", input=QUESTION, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    words = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert words == ["a", "red", "car"]
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "a red car"
    assert len(last.response.codefend["images"]) == 1
    assert not any("codefend" in event.model_dump_json() for event in events[:-1])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_second_turn_may_refer_to_the_first(clients, upstream, stream):
    first = clients[0].responses.create(model="m", input=QUESTION, stream=stream)
    answer = list(first)[-1].response if stream else first
    turns = (
        {"previous_response_id": answer.id, "input": "and now?"},
        {"input": [{"type": "item_reference", "id": answer.output[0].id},
                   {"role": "user", "content": "and now?"}]},
        {"input": [*QUESTION, answer.output[0].model_dump(exclude_unset=True),
                   {"role": "user", "content": "and now?"}]},
    )  # fmt: skip
    for turn in turns:
        assert clients[0].responses.create(model="m", **turn).output_text == "a red car"
        assert {name: forwarded(upstream)[name] for name in turn if name != "input"} == {
            name: value for name, value in turn.items() if name != "input"
        }
    upstream.bodies.clear()
    for turn in turns[:2]:
        with pytest.raises(openai.BadRequestError) as raised:
            clients[1].responses.create(model="m", **turn)
        assert raised.value.code == "unknown_state"
    assert upstream.bodies == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_of_another"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": [{"type": "item_reference", "id": "msg_0"}]}, "input[0].id"),
    ],
)
def test_an_id_that_nobody_was_given_is_refused(clients, upstream, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        clients[0].responses.create(model="m", **{"input": "hi", **fields})
    assert (raised.value.code, raised.value.param) == ("unknown_state", param)
    assert "Send the conversation itself" in raised.value.message
    assert upstream.bodies == []


def test_ids_of_an_unenforced_time_are_not_known_later(service, upstream):
    with service.changed(mode=Mode.SHADOW):
        body = {"model": "m", "input": "hi", "previous_response_id": "resp_0"}
        shadowed = service.client.post("/v1/responses", json=body)
        assert shadowed.status_code == 200
    body["previous_response_id"] = shadowed.json()["id"]
    refusal = service.client.post("/v1/responses", json=body)
    assert refusal.json()["error"]["code"] == "unknown_state"


def test_the_operator_may_let_any_id_pass(session_upstream, upstream):
    settings = make_settings(session_upstream.url, allowed_fields="previous_response_id")
    with run_service(settings) as service:
        body = {"model": "m", "input": "hi", "previous_response_id": "resp_0"}
        assert service.client.post("/v1/responses", json=body).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/input_items"),
        ("POST", "/v1/responses/compact"),
    ],
)
def test_what_is_stored_is_not_served(service, upstream, method, path):
    response = service.client.request(method, path)
    assert response.status_code == 404
    assert "only POST /v1/responses is" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.failed", "response": {"output": [], "error": {"message": "secret"}}},
        {"type": "error", "code": "server_error", "message": "secret", "param": None},
    ],
)
def test_a_failure_within_a_stream_is_an_exception_without_the_upstreams_words(
    clients, upstream, event
):
    def reply(handler, _):
        created = {"type": "response.created", "sequence_number": 0, "response": {"output": []}}
        lines = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in (created, event)]
        handler.send("".join(lines).encode(), "text/event-stream")

    upstream.reply = reply
    with pytest.raises(openai.APIError) as raised:
        list(clients[0].responses.create(model="m", input="hi", stream=True))
    assert "secret" not in str(raised.value)


def test_a_closed_tool_is_refused_with_what_would_open_it(clients, upstream):
    with pytest.raises(openai.BadRequestError) as raised:
        clients[0].responses.create(model="m", input="hi", tools=[{"type": "web_search"}])
    assert "CODEFEND_ALLOWED_FIELDS=tools.web_search" in raised.value.message
    assert upstream.bodies == []
