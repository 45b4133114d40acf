"""What the upstream serves, found out without a question: against functions, and real services."""

import asyncio
import json
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest

from codefend.service.errors import ProtocolNotServed
from codefend.service.forward import probe
from codefend.service.forward.probe import UpstreamProbe, UpstreamState
from codefend.service.protocols.base import all_protocols
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from codefend.service.settings import Settings
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form
from tests.service.test_chat import chat, text_part, user

CHAT = "chat/completions"
# One more than there are, so that one can always be lacking.
MADE_UP = replace(CHAT_COMPLETIONS, name="made-up", path="/v1/made-up")
PROTOCOLS = {**all_protocols(), MADE_UP.path: MADE_UP}
PATHS = {protocol.upstream_path for protocol in PROTOCOLS.values()}
REFUSED = httpx.Response(400, json={"error": {"message": "messages is required"}})
NOWHERE = httpx.Response(404, json={"detail": "Not Found"})


@pytest.fixture(autouse=True)
def protocols(monkeypatch):
    monkeypatch.setattr(probe, "all_protocols", lambda: PROTOCOLS)


def listing(*ids, **more):
    return httpx.Response(200, json={"data": [{"id": name, **more} for name in ids]})


def serving(answers, base="/v1", others=NOWHERE, key=None):
    """An upstream with these answers by path below its base; POST and GET alike."""

    def handler(request):
        assert request.content == (b"" if request.method == "GET" else b"{}")
        if key is not None and key not in " ".join(request.headers.values()):
            return httpx.Response(401, json={"error": {"message": "who are you?"}})
        path = request.url.path
        inside = path.removeprefix(f"{base}/") if path.startswith(f"{base}/") else None
        answer = answers.get(inside, others)
        return httpx.Response(answer.status_code, content=answer.content)

    return handler


ALL = {"models": listing("m")} | dict.fromkeys(PATHS, REFUSED)


def look(handler, url="http://model/v1", **settings):
    """What a probe finds."""

    async def scenario():
        values = Settings(upstream_url=url, **settings)
        headers = {}
        if values.upstream_key is not None:
            headers["Authorization"] = f"Bearer {values.upstream_key.get_secret_value()}"
        transport = httpx.MockTransport(handler)
        async with httpx.AsyncClient(base_url=url, transport=transport, headers=headers) as client:
            asking = UpstreamProbe(client, values)
            asking.state = await asking._look()
            return asking

    return asyncio.run(scenario())


@pytest.mark.parametrize("url", ["http://model/v1", "http://model/v1/"])
def test_an_upstream_that_is_right_is_said_to_be(url):
    assert look(serving(ALL), url).state == UpstreamState()


@pytest.mark.parametrize(
    ("url", "base", "hint"),
    [
        ("http://model", "/v1", "; with /v1 at its end it would."),
        ("http://model/", "/v1", "; with /v1 at its end it would."),
        ("http://model/api", "/api/v1", "; with /v1 at its end it would."),
        ("http://model/v1/chat/completions", "/v1", "; without /chat/completions at its end it w"),
        ("http://model/v1/models", "/v1", "; without /models at its end it would."),
        ("http://model/v2", "/v1", "_URL."),
        ("http://model/v1/v1", "/v1", "_URL."),
    ],
)
@pytest.mark.parametrize("others", [NOWHERE, httpx.Response(404, text="404 page not found"),
                                    httpx.Response(405), httpx.Response(501)])  # fmt: skip
def test_a_wrong_path_is_told_with_the_right_one(url, base, hint, others):
    state = look(serving(ALL, base, others), url).state
    assert state.wrong.startswith("The upstream serves nothing at the path of CODEFEND_UPSTREAM_UR")
    assert hint in state.wrong
    assert "model/" not in state.wrong  # no address: probes of readiness need no key
    assert state.lacking == frozenset()


@pytest.mark.parametrize("is_set", [True, False])
@pytest.mark.parametrize(("status", "words"), [(401, "no"), (403, "no"), (400, "No connected db.")])
def test_a_wrong_key_is_told(is_set, status, words):
    refusal = httpx.Response(status, json={"error": {"message": words}})
    wrong = dict.fromkeys(ALL, refusal)
    settings = {"upstream_key": "a-secret"} if is_set else {}
    state = look(serving(wrong, others=refusal), **settings).state
    assert ("does not take the key" if is_set else "wants a key") in state.wrong
    assert "secret" not in state.wrong
    assert look(serving(ALL, key="a-secret"), upstream_key="a-secret").state == UpstreamState()


def test_a_list_that_is_not_for_this_key_is_no_wrong_key():
    closed = ALL | {"models": httpx.Response(403, json={"error": {"message": "no"}})}
    assert look(serving(closed)).state == UpstreamState()


@pytest.mark.parametrize(
    ("models", "is_wrong"),
    [
        (listing("other"), True),
        (listing("other", "mine-2"), True),
        (listing("mine"), False),
        (listing("mine:latest"), False),
        (listing("other", "openai/*"), False),
        (listing("other", owned_by="llamacpp"), False),
        (listing(), False),
        (httpx.Response(200, text="hello"), False),
        (httpx.Response(200, json={"data": [1]}), False),
        (httpx.Response(200, json={"data": [{"id": "x"}], "has_more": True}), False),
        (NOWHERE, False),
        (httpx.Response(500), False),
    ],
)
def test_a_model_that_is_not_listed_is_told(models, is_wrong):
    state = look(serving(ALL | {"models": models}), upstream_model="mine").state
    assert (state.wrong is not None) == is_wrong
    assert not is_wrong or "CODEFEND_UPSTREAM_MODEL" in state.wrong
    assert look(serving(ALL | {"models": models})).state.wrong is None


def hang_up(request):
    raise httpx.ConnectError("no", request=request)


@pytest.mark.parametrize(
    "handler",
    [hang_up, lambda _: httpx.Response(503), lambda _: httpx.Response(502, text="<html>")],
)
def test_an_upstream_that_does_not_answer_is_its_own_concern(handler):
    state = look(handler).state
    assert (state.wrong, state.is_silent, state.lacking) == (None, True, frozenset())


@pytest.mark.parametrize("lacking", sorted(PATHS))
def test_a_protocol_that_is_lacking_is_refused_with_those_that_are_served(lacking):
    answers = {path: answer for path, answer in ALL.items() if path != lacking}
    asking = look(serving(answers))
    assert asking.state == UpstreamState(lacking=frozenset({lacking}))
    for path, protocol in PROTOCOLS.items():
        if protocol.upstream_path != lacking:
            asking.check(path)
            continue
        with pytest.raises(ProtocolNotServed) as raised:
            asking.check(path)
        named, _, used = str(raised.value).partition(" Use ")
        assert path in named
        assert set(used.rstrip(".").split(" or ")) == PROTOCOLS.keys() - {path}
    if lacking == CHAT:
        with pytest.raises(ProtocolNotServed):
            asking.check("/v1/vqa")


@pytest.mark.parametrize("status", [200, 400, 401, 422, 429, 500])
def test_a_path_that_answers_in_any_way_is_there(status):
    for path in PATHS:
        answers = ALL | {path: httpx.Response(status, json={"error": {"message": "no model"}})}
        assert look(serving(answers)).state.lacking == frozenset()


def test_a_model_that_is_unknown_is_no_path_that_is_lacking():
    unknown = httpx.Response(404, json={"error": {"message": "model '' not found"}})
    assert look(serving(ALL | dict.fromkeys(PATHS, unknown))).state == UpstreamState()


# With a real service


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(probe, "FIRST_PAUSE_S", 0.05)


@contextmanager
def behind(upstream, **settings):
    with run_service(make_settings(upstream.url, **settings)) as service:
        yield service


def send(handler, status, said):
    handler.send(json.dumps(said).encode(), "application/json", status)


@pytest.mark.slow
def test_a_wrong_setting_is_said_at_the_start_and_until_it_is_right(hurried, caplog):
    caplog.set_level("INFO")
    refused = [True]

    def reply(handler):
        status = 401 if refused else 400
        send(handler, status, {"error": {"message": "your key sk-secret is wrong"}})

    with run_upstream() as upstream:
        upstream.probe_reply = reply
        with behind(upstream, upstream_key="sk-secret") as service:
            service.wait_until(lambda: service.client.get("/readyz").status_code == 503)
            assert service.client.get("/readyz").json() == {
                "status": "misconfigured",
                "upstream": "The upstream does not take the key in CODEFEND_UPSTREAM_KEY.",
            }
            assert service.client.get("/healthz").status_code == 200
            refused.clear()
            service.wait_until(lambda: service.client.get("/readyz").status_code == 200)
            assert service.client.get("/readyz").json() == {"status": "ready"}
    told = [r.message for r in caplog.records if r.name == probe.logger.name]
    assert len(told) == 2
    assert "set wrongly" in told[0]
    assert told[1] == "the upstream answers"
    assert "sk-secret" not in caplog.text
    assert upstream.bodies == []


@pytest.mark.slow
def test_a_lacking_protocol_is_refused_before_its_body_is_read_and_found_again(hurried):
    lacking = {f"/v1/{CHAT}"}

    def reply(handler):
        is_lacking = handler.path in lacking
        send(handler, 404 if is_lacking else 400, {"detail": "Not Found"} if is_lacking else {})

    with run_upstream() as upstream:
        upstream.probe_reply = reply
        with behind(upstream) as service:
            asking = service.runtime.pipeline.upstream.probe
            service.wait_until(lambda: asking.state.lacking)
            asked = {"json": chat(user(text_part("?")))}
            for path, body in (("/v1/chat/completions", asked), ("/v1/vqa", as_form(png()))):
                response = service.client.post(path, **body)
                assert response.status_code == 404
                assert response.json()["error"]["code"] == "protocol_not_served"
            assert service.client.post("/v1/purify", **as_form(png())).status_code == 200
            assert service.client.get("/readyz").json() == {"status": "ready"}
            lacking.clear()
            service.wait_until(lambda: not asking.state.lacking)
            assert service.client.post("/v1/chat/completions", **asked).status_code == 200
            assert len(upstream.bodies) == 1


@pytest.mark.slow
def test_an_upstream_that_changes_is_asked_anew(hurried):
    with run_upstream() as upstream, behind(upstream) as service:
        service.wait_until(lambda: len(upstream.probes) > len(PATHS))
        num_probes = len(upstream.probes)
        upstream.reply = upstream.probe_reply = lambda handler, *_: send(handler, 401, {})
        asked = {"json": chat(user(text_part("?")))}
        assert service.client.post("/v1/chat/completions", **asked).status_code == 502
        service.wait_until(lambda: service.client.get("/readyz").status_code == 503)
        assert len(upstream.probes) > num_probes


@pytest.mark.slow
def test_an_upstream_that_is_not_there_changes_no_readiness():
    with run_service(make_settings()) as service:
        service.wait_until(lambda: service.runtime.pipeline.upstream.probe.state.is_silent)
        response = service.client.get("/readyz")
        assert response.status_code == 200
        assert response.json() == {
            "status": "ready", "upstream": "The upstream does not answer at present."
        }  # fmt: skip
