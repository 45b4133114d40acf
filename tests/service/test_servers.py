"""The commands of docs/servers.md, each against its server, played at its protocol."""

import json
import re
import shlex
from pathlib import Path

import openai
import pytest

from tests.service.fake_upstream import run_upstream
from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_chat import image_part, text_part, user

PAGE = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
ANSWER = "a red car"
USAGE = {"prompt_tokens": 600, "completion_tokens": 3, "total_tokens": 603}
CHAT = "chat.completion"


def listed(name, **more):
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 1, **more}]}


def whole(name, *, choice, message, **more):
    content = {"role": "assistant", "content": ANSWER, **message}
    choices = [{"index": 0, "message": content, "finish_reason": "stop", **choice}]
    return {"id": "chatcmpl-1", "object": CHAT, "created": 1, "model": name} | {
        "choices": choices,
        "usage": USAGE,
        **more,
    }


def chunk(name, choices, **more):
    told = {"id": "chatcmpl-1", "object": f"{CHAT}.chunk", "created": 1, "model": name}
    return told | {"choices": choices, **more}


def part(delta, reason=None, **more):
    return [{"index": 0, "delta": delta, "finish_reason": reason, **more}]


def vllm(name):
    """As of 0.11: a first chunk that says the role alone, and its own fields, mostly null."""
    null = dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "kv_transfer_params"))
    message = {"refusal": None, "annotations": None, "tool_calls": [], "reasoning_content": None}
    choice = {"logprobs": None, "stop_reason": None, "token_ids": None}
    chunks = [
        chunk(
            name, part({"role": "assistant", "content": ""}, logprobs=None), prompt_token_ids=None
        ),
        *(chunk(name, part({"content": text}, **choice)) for text in ("a red", " car")),
        chunk(name, part({"content": ""}, "stop", **choice)),
        chunk(name, [], usage=USAGE),
    ]
    listing = listed(name, owned_by="vllm", root=name, parent=None, max_model_len=4096)
    return listing, whole(name, choice=choice, message=message, **null), chunks


def sglang(name):
    """As of 0.5: every chunk tells all fields of a delta; what stopped it has a name of its own."""
    empty = {"reasoning_content": None, "tool_calls": None}
    chunks = [
        chunk(name, part({"role": "assistant", "content": "", **empty}, logprobs=None), usage=None),
        chunk(name, part({"role": None, "content": ANSWER, **empty}, logprobs=None), usage=None),
        chunk(name, part({"role": None, "content": None, **empty}, "stop", matched_stop=2)),
        chunk(name, [], usage=USAGE | {"prompt_tokens_details": None, "reasoning_tokens": 0}),
    ]
    answer = whole(
        name,
        choice={"logprobs": None, "matched_stop": 2},
        message=empty,
        metadata={"weight_version": "default"},
    )
    return listed(name, owned_by="sglang", root=name, max_model_len=32768), answer, chunks


def ollama(name):
    """As of 0.12: the last chunk says why it ends, and has a delta of its own."""
    mark = {"system_fingerprint": "fp_ollama"}
    chunks = [
        chunk(name, part({"role": "assistant", "content": "a red"}), **mark),
        chunk(name, part({"role": "assistant", "content": " car"}), **mark),
        chunk(name, part({"role": "assistant", "content": ""}, "stop"), **mark),
        chunk(name, [], usage=USAGE, **mark),
    ]
    return listed(name, owned_by="library"), whole(name, choice={}, message={}, **mark), chunks


def litellm(name):
    """As of 1.108: an empty choice stands in the chunk that tells the usage."""
    chunks = [
        chunk(name, part({"role": "assistant", "content": ANSWER})),
        chunk(name, part({}, "stop")),
        chunk(name, part({}), usage=USAGE),
    ]
    return listed(name, owned_by="openai"), whole(name, choice={}, message={}), chunks


SERVERS = {
    "vLLM": vllm,
    "SGLang": sglang,
    "Ollama": ollama,
    "LiteLLM": litellm,
    "Open WebUI": ollama,
}


def documented(heading):
    """The settings that the page's command has, by their names in the code."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (command,) = (block for block in blocks if "codefend serve" in block)
    pairs = [word.partition("=") for word in shlex.split(command) if "=" in word]
    return {name.removeprefix("CODEFEND_").lower(): value for name, _, value in pairs}


def test_every_server_on_the_page_is_played():
    assert list(SERVERS) == re.findall(r"^## (.+)$", PAGE, re.MULTILINE)


@pytest.fixture(params=SERVERS)
def served(request):
    """The service as the page starts it, what its model's server got, and a client."""
    settings = documented(request.param)
    listing, answer, chunks = SERVERS[request.param](settings["upstream_model"])

    def reply(handler, asked):
        if asked["model"] != settings["upstream_model"]:
            error = {"message": 'model "x" not found, try pulling it first', "type": "api_error"}
            handler.send(json.dumps({"error": error}).encode(), "application/json", 404)
        elif asked.get("stream"):
            events = [*map(json.dumps, chunks), "[DONE]"]
            handler.send("".join(f"data: {e}\n\n" for e in events).encode(), "text/event-stream")
        else:
            handler.send(json.dumps(answer).encode(), "application/json")

    def reply_to_probe(handler):
        found = handler.path.removeprefix("/v1/") in {"models", "chat/completions"}
        if handler.headers.get("content-length", "0") != "0":
            handler.send(
                b'{"error": {"message": "messages"}}', "application/json", 400 if found else 404
            )
        else:
            handler.send(json.dumps(listing).encode(), "application/json", 200)

    with run_upstream() as upstream:
        upstream.reply, upstream.probe_reply = reply, reply_to_probe
        values = settings | {"upstream_url": upstream.url}
        with run_service(make_settings(**values)) as service:
            key = settings.get("api_keys", "none")
            client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0)
            yield settings, upstream, service, client


@pytest.mark.slow
def test_a_picture_is_asked_about_whole_and_streamed(served):
    settings, upstream, service, client = served
    # Once it has been looked at, nothing is wrong with the server, its key or its model's name.
    service.wait_until(lambda: len(upstream.probes) >= 2)
    service.wait_until(lambda: service.client.get("/readyz").json() == {"status": "ready"})
    picture = png(40, 30)
    messages = [user(text_part("what is in the image?"), image_part(picture))]
    whole = client.chat.completions.create(model=settings["upstream_model"], messages=messages)
    assert whole.choices[0].message.content == ANSWER
    assert whole.usage.total_tokens == USAGE["total_tokens"]
    stream = client.chat.completions.create(
        model=settings["upstream_model"],
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == ANSWER
    assert any(chunk.usage for chunk in chunks)
    sent = image_part(picture)["image_url"]["url"].encode()
    assert len(upstream.bodies) == 2
    assert all(b"data:image/" in body and sent not in body for body in upstream.bodies)
    own = {f"Bearer {settings['upstream_key']}"} if "upstream_key" in settings else {None}
    found = ({name.lower(): value for name, value in each.items()} for each in upstream.headers)
    assert {headers.get("authorization") for headers in found} == own


@pytest.mark.slow
def test_a_model_that_is_not_there_is_said(served):
    *_, client = served
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="x", messages=[user(text_part("hello"))])
