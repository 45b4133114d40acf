"""What of an upstream's answers reaches the client beside their bodies: codes, places, headers."""

import json

import pytest

from codefend.service.errors import UpstreamRefused
from codefend.service.forward.refusals import KNOWN_CODES
from tests.service.pictures import png
from tests.service.test_api import as_form
from tests.service.test_chat import chat, text_part, user

TOO_LONG = {
    "error": {
        "message": "maximum context length is 5 tokens; you asked: my secret prompt",
        "type": "invalid_request_error",
        "param": "messages[0].content[0].text",
        "code": "context_length_exceeded",
    }
}
PASSED = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "6m0s",
    "anthropic-ratelimit-tokens-reset": "2026-01-27T12:00:00Z",
    "openai-processing-ms": "412",
}
KEPT_BACK = {
    "set-cookie": "session=secret",
    "server": "secret/1.0",
    "x-internal-host": "10.0.0.1",
    "openai-organization": "secret-org",
    "x-ratelimit-" + "a" * 80: "1",
    "x-ratelimit-limit-tokens": "9" * 200,
    "x-ratelimit-remaining-requests": 'quoted "secret"',
}


def ask(service, *, path="/v1/chat/completions", stream=False):
    if path == "/v1/vqa":
        return service.client.post(path, **as_form(png(), question="?"))
    return service.client.post(path, json=chat(user(text_part("?")), stream=stream))


def answering(status=200, said=None, headers=()):
    def reply(handler, document):
        if said is not None:
            handler.send(json.dumps(said).encode(), "application/json", status, headers)
        elif document.get("stream"):
            chunk = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
            events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
            handler.send(events.encode(), "text/event-stream", status, headers)
        else:
            answer = {"choices": [{"message": {"role": "assistant", "content": "a"}}]}
            handler.send(json.dumps(answer).encode(), "application/json", status, headers)

    return reply


@pytest.mark.parametrize("stream", [False, True])
def test_a_known_code_and_its_place_pass_and_the_reason_is_in_the_log(
    service, upstream, caplog, stream
):
    upstream.reply = answering(400, TOO_LONG)
    response = ask(service, stream=stream)
    assert response.status_code == 400
    assert response.json() == {
        "error": {
            "message": KNOWN_CODES["context_length_exceeded"].message,
            "type": UpstreamRefused.type,
            "param": "messages[0].content[0].text",
            "code": "context_length_exceeded",
        }
    }
    (record,) = (r for r in caplog.records if r.message == "the upstream failed")
    assert record.fields == {
        "reason": "status_400",
        "status": 400,
        "code": "context_length_exceeded",
        "param": "messages[0].content[0].text",
        "said": TOO_LONG["error"]["message"],
        "request_id": response.headers["x-request-id"],
    }
    assert service.metric("codefend_upstream_errors_total", reason="status_400") >= 1


def test_a_path_that_is_not_there_is_no_unknown_model(service, upstream):
    upstream.reply = answering(404, {"detail": "Not Found"})
    response = ask(service)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "protocol_not_served")
    upstream.reply = answering(404, {"error": {"message": "The model `x` does not exist."}})
    response = ask(service)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("is_named", [True, False])
def test_an_error_that_ends_a_stream_has_its_code(service, upstream, is_named):
    def reply(handler, _):
        handler.begin_stream()
        chunk = json.dumps({"choices": [{"delta": {"content": "a"}}]})
        name = "event: error\n" if is_named else ""
        handler.wfile.write(f"data: {chunk}\n\n{name}data: {json.dumps(TOO_LONG)}\n\n".encode())

    upstream.reply = reply
    text = ask(service, stream=True).text
    assert '"content": "a"' in text
    assert "secret" not in text
    assert "[DONE]" not in text
    last = json.loads(text.strip().rpartition("data: ")[2])
    assert last["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "stream", "status"),
    [
        ("/v1/chat/completions", False, 200),
        ("/v1/chat/completions", True, 200),
        ("/v1/chat/completions", False, 429),
        ("/v1/chat/completions", True, 500),
        ("/v1/vqa", False, 200),
        ("/v1/vqa", False, 400),
    ],
)
def test_listed_headers_pass_and_no_others(service, upstream, path, stream, status):
    headers = PASSED | KEPT_BACK | {"x-request-id": "req_011CZCia"}
    said = None if status == 200 else {"error": {"message": "no"}}
    upstream.reply = answering(status, said, headers.items())
    response = ask(service, path=path, stream=stream)
    assert {name: response.headers.get(name) for name in PASSED} == PASSED
    assert not set(KEPT_BACK) & set(response.headers)
    assert response.headers["x-upstream-request-id"] == "req_011CZCia"
    assert response.headers["x-request-id"] != "req_011CZCia"
    assert "secret" not in str(response.headers)


def test_one_answers_headers_are_not_anothers(service, upstream):
    upstream.reply = answering(headers=PASSED.items())
    ask(service)
    upstream.reply = answering(headers=[("request-id", "req_anthropic")])
    response = ask(service)
    assert response.headers["x-upstream-request-id"] == "req_anthropic"
    assert not set(PASSED) & set(response.headers)
    upstream.reply = None
    assert (
        "x-upstream-request-id" not in service.client.post("/v1/purify", **as_form(png())).headers
    )


def test_a_retry_after_is_ours_alone(service, upstream):
    upstream.reply = answering(headers=[("retry-after", "7")])
    assert "retry-after" not in ask(service).headers
    upstream.reply = answering(429, {"error": {"message": "no"}}, [("retry-after", "7")])
    assert ask(service).headers["retry-after"] == "7"


def test_of_a_thousand_headers_few_pass(service, upstream):
    many = [(f"x-ratelimit-a{number}", str(number)) for number in range(90)]
    upstream.reply = answering(headers=many)
    passed = [name for name in ask(service).headers if name.startswith("x-ratelimit")]
    assert len(passed) == 40
