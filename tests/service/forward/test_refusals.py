"""Refusals as real servers write them: their codes are told, and none of their words."""

import json

import pytest

from codefend.service.errors import UpstreamError
from codefend.service.forward.breaker import Verdict
from codefend.service.forward.failures import UpstreamFailure, error_from, may_retry, settle
from codefend.service.forward.refusals import KNOWN_CODES, read_refusal

TOO_LONG = "context_length_exceeded"
OPENAI = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9"


def openai_error(message="secret words", kind="invalid_request_error", code=None, **more):
    return {"error": {"message": message, "type": kind, "param": None, "code": code} | more}


# Status, body, and the code that the client gets.
SAID = {
    "OpenAI, too long": (400, openai_error(OPENAI, code=TOO_LONG, param="messages"), TOO_LONG),
    "OpenAI, quota": (429, openai_error(kind="insufficient_quota", code="insufficient_quota"),
                      "insufficient_quota"),
    "OpenAI, busy": (429, openai_error(kind="tokens", code="rate_limit_exceeded"),
                     "rate_limit_exceeded"),
    "OpenAI, model": (404, openai_error(code="model_not_found"), "model_not_found"),
    "OpenAI, no right to the model": (403, openai_error(code="model_not_found"), "model_not_found"),
    "OpenAI, value": (400, openai_error(code="decimal_above_max_value", param="temperature"),
                      "decimal_above_max_value"),
    "OpenAI, safety": (400, openai_error(
        "Your request was rejected as a result of our safety system."), "content_policy_violation"),
    "Azure": (400, openai_error(
        "The response was filtered due to the prompt triggering Azure OpenAI's content management "
        "policy.", None, "content_filter", param="prompt"), "content_filter"),
    "Azure, inner": (400, openai_error(
        innererror={"code": "ResponsibleAIPolicyViolation"}), "content_filter"),
    "vLLM": (400, openai_error(OPENAI, "BadRequestError", 400), TOO_LONG),
    "vLLM, before 0.10": (400, {"object": "error", "message": OPENAI, "type": "BadRequestError",
                                "param": None, "code": 400}, TOO_LONG),
    "vLLM, with pictures": (400, openai_error(
        "The decoder prompt (length 8357) is longer than the maximum model length of 8192.",
        "BadRequestError", 400), TOO_LONG),
    "vLLM, pictures": (400, openai_error(
        "At most 1 image(s) may be provided in one prompt. (parameter=image)",
        "BadRequestError", 400), "too_many_images"),
    "vLLM, model": (404, openai_error(
        "The model `x` does not exist.", "NotFoundError", 404), "model_not_found"),
    "SGLang": (400, {"object": "error", "message": "The input (61709 tokens) is longer than the "
                     "model's context length (40960 tokens).", "type": "BadRequestError",
                     "param": None, "code": 400}, TOO_LONG),
    "llama.cpp": (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message":
                  "the request exceeds the available context size, try increasing it"}}, TOO_LONG),
    "llama.cpp, before": (500, {"error": {"code": 500, "type": "exceed_context_size_error",
                                          "message": "secret words"}}, TOO_LONG),
    "Ollama, model": (404, openai_error(
        'model "x" not found, try pulling it first', "not_found_error"), "model_not_found"),
    "LiteLLM, too long": (400, openai_error(
        "litellm.ContextWindowExceededError: litellm.BadRequestError: secret words", None, "400"),
        TOO_LONG),
    "LiteLLM, policy": (400, openai_error(
        "litellm.BadRequestError: litellm.ContentPolicyViolationError: secret words", None, "400"),
        "content_policy_violation"),
    "LiteLLM, model": (400, openai_error(
        "/chat/completions: Invalid model name passed in model=x. Call `/v1/models`", None, "400"),
        "model_not_found"),
    "LiteLLM, detail": (400, {"detail": {"error": "Invalid model name passed in model=x"}},
                        "model_not_found"),
    "LiteLLM, right": (401, openai_error(kind="key_model_access_denied", code="401"),
                       "model_not_found"),
    "LiteLLM, budget": (400, openai_error("Budget has been exceeded!", "budget_exceeded", "400"),
                        "insufficient_quota"),
    "Anthropic, too long": (400, {"type": "error", "error": {"type": "invalid_request_error",
                            "message": "prompt is too long: 209303 tokens > 200000 maximum"}},
                            TOO_LONG),
    "Anthropic, too long with its answer": (400, {"type": "error", "error": {
        "type": "invalid_request_error", "message": "input length and `max_tokens` exceed context "
        "limit: 179413 + 32768 > 200000"}}, TOO_LONG),
    "Anthropic, credit": (400, {"type": "error", "error": {"type": "invalid_request_error",
                          "message": "Your credit balance is too low to access the API."}},
                          "insufficient_quota"),
    "Anthropic, busy": (429, {"type": "error", "error": {"type": "rate_limit_error",
                        "message": "secret words"}}, "rate_limit_exceeded"),
    "Anthropic, overloaded": (529, {"type": "error", "error": {"type": "overloaded_error",
                              "message": "Overloaded"}}, "overloaded_error"),
    "Gemini": (429, [{"error": {"code": 429, "message": "secret words", "status":
               "RESOURCE_EXHAUSTED"}}], "rate_limit_exceeded"),
    "Gemini, too long": (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message":
                         "The input token count exceeds the maximum number of tokens allowed "
                         "(1048576)."}}], TOO_LONG),
    "TGI": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= "
            "2048.", "error_type": "validation"}, TOO_LONG),
}  # fmt: skip


def fail(status, said):
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    return UpstreamFailure.of_status(status, "", content)


@pytest.mark.parametrize("name", SAID)
def test_the_codes_of_real_servers_are_told_in_our_words(name):
    status, said, code = SAID[name]
    error = error_from(fail(status, said), by_client=True)
    assert isinstance(error, UpstreamError)
    body = error.body()["error"]
    assert body["code"] == code
    assert error.status == KNOWN_CODES[code].error.status
    assert body["message"] == KNOWN_CODES[code].message
    assert "secret words" not in json.dumps(body)


@pytest.mark.parametrize("name", SAID)
def test_what_the_service_asked_by_itself_is_not_the_clients_fault(name):
    status, said, _ = SAID[name]
    error = error_from(fail(status, said), by_client=False)
    assert error.status in {429, 502}
    assert error.public_message in {type(error).message}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, openai_error(code="something_new")),
        (400, openai_error(code=["context_length_exceeded"])),
        (400, openai_error(code={"a": 1}, kind=7)),
        (400, {"error": {"message": ["maximum context length"]}}),
        (400, {"error": None}),
        (400, {"errors": [{"code": TOO_LONG}]}),
        (400, [TOO_LONG]),
        (400, []),
        (400, b""),
        (400, b"<html>maximum context length</html>"),
        (400, b"[" * 100_000),
        (400, b"\xff\xfe"),
        # Of a server that fails, words alone say nothing: they may quote the prompt.
        (500, openai_error("while answering: what is the maximum context length?")),
    ],
)
def test_what_is_not_known_is_no_code(status, said):
    assert fail(status, said).refusal.code is None


@pytest.mark.parametrize(
    ("param", "is_told"),
    [
        ("messages", True), ("messages[3].content[1].image_url.url", True),
        ("messages.[3].content", True), ("messages.3.content.0.image", True),
        ("temperature", True), ("tools[0].function.parameters", True),
        ("", False), (None, False), (7, False), (["messages"], False), ("secret", False),
        ("sk-12345", False), ("what is in the image?", False), ("messages[0]: my secret", False),
        ("messages\n", False), ("messages" + "[0]" * 200, False), ("http://10.0.0.1/", False),
        ("messages.sk-1", False), ("10.0.0.1", False),
    ],
)  # fmt: skip
def test_a_place_is_told_if_it_is_one_of_a_request(param, is_told):
    for code in (TOO_LONG, "something_new"):
        error = error_from(fail(400, openai_error(code=code, param=param)), by_client=True)
        assert error.param == (param if is_told else None)


def test_the_log_gets_one_short_line_without_pixels_and_keys():
    words = "line\none\t\x1b[31m\x00 " + "iVBORw0KGgo" * 40 + " key-of-ours \u202e" + " word" * 500
    failure = fail(400, openai_error(words, code=TOO_LONG, param="messages"))
    fields = failure.fields("key-of-ours")
    said = fields.pop("said")
    assert fields == {
        "reason": "status_400", "status": 400, "code": TOO_LONG, "param": "messages"
    }  # fmt: skip
    assert said.startswith("line one \\u001b[31m\\u0000 <440 characters> <key> \\u202e word")
    assert said.isprintable()
    assert len(said) <= 401
    assert "said" not in UpstreamFailure("connect").fields("")
    page = fail(502, b"<html>bad gateway</html>").fields("")
    assert (page["said"], page["status"]) == ("<html>bad gateway</html>", 502)


class Permit:
    def __init__(self):
        self.settled = None

    def settle(self, verdict, _retry_after_s):
        self.settled = verdict


def test_whoever_says_why_it_refuses_is_not_broken_and_is_not_asked_again():
    for status, said, expected in (
        (500, openai_error(), Verdict.FAILED),
        (500, openai_error(code=TOO_LONG), Verdict.ANSWERED),
        (503, openai_error(kind="overloaded_error"), Verdict.ANSWERED),
        (529, b"", Verdict.ANSWERED),
    ):
        failure, permit = fail(status, said), Permit()
        settle(permit, failure)
        assert permit.settled is expected
        assert may_retry(failure, is_idempotent=True) == (expected is Verdict.FAILED)


def test_a_quota_that_is_used_up_is_not_asked_for_again():
    error = error_from(fail(429, openai_error(code="insufficient_quota")), by_client=True)
    assert error.headers() == {"X-Should-Retry": "false"}
    busy = error_from(fail(429, openai_error(code="rate_limit_exceeded")), by_client=True)
    assert busy.headers() == {"Retry-After": "5"}


def test_the_whole_of_what_is_said_is_read_in_no_time():
    refusal = read_refusal(400, json.dumps(openai_error("model " * 100_000)).encode())
    assert refusal.code is None
