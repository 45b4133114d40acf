"""Keys of one service under different policies, and a file of keys that changes while it runs."""

import asyncio
import json
import logging
import threading

import numpy as np
import pytest

from codefend.service.app import create_app
from codefend.service.policy import ENDPOINTS, PROBES
from tests.service.fake_engine import FAIL, marked
from tests.service.pictures import encode, picture, pixels_of
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form, from_data_url
from tests.service.test_chat import chat, image_part, user
from tests.service.test_suspicion import suspect

FILE = """
[policies.watch]
mode = "shadow"
disclose = "minimal"

[[keys]]
name = "plain"
key = "plain"

[[keys]]
name = "watched"
key = "watched"
policy = "watch"

[[keys]]
name = "lenient"
key = "lenient"
on_purify_failure = "pass"

[[keys]]
name = "strict"
key = "strict"
policy = "watch"
mode = "enforce"
on_flagged = "refuse"

[[keys]]
name = "trial"
key = "trial"
policy = "watch"
on_flagged = "refuse"

[[keys]]
name = "slow"
key = "slow"
max_requests_per_minute = 2

[[keys]]
name = "narrow"
key = "narrow"
max_requests = 1

[[keys]]
name = "scraper"
key = "scraper"
endpoints = ["/metrics"]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def shared(session_upstream, file):
    settings = make_settings(
        session_upstream.url,
        api_keys_file=file,
        engine_options={"suspects": True},
        cache_bytes=1 << 20,
    )
    with run_service(settings) as service:
        yield service


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def ask(service, key, image, path="/v1/vqa"):
    fields = {"question": "?"} if path == "/v1/vqa" else {}
    return service.client.post(path, **as_form(image, **fields), headers=bearer(key))


def seen(upstream):
    url = json.loads(upstream.bodies[-1])["messages"][0]["content"][0]["image_url"]["url"]
    return pixels_of(from_data_url(url)[1])


def plain(seed=0):
    return suspect(0, seed)


def test_one_key_enforces_while_another_shadows(shared, upstream):
    pixels = pixels_of(plain())
    assert ask(shared, "plain", plain()).json()["defense"]["bypassed"] is False
    assert np.array_equal(seen(upstream), 255 - pixels)
    before = shared.metric("codefend_bypass_total", reason="shadow")
    assert ask(shared, "watched", plain()).json()["defense"]["bypassed"] is True
    assert np.array_equal(seen(upstream), pixels)
    assert shared.metric("codefend_bypass_total", reason="shadow") == before + 1


def test_each_key_is_told_as_much_as_it_may_know(shared, upstream):
    for path in ("/v1/vqa", "/v1/purify"):
        full, minimal = (ask(shared, key, plain(), path).json() for key in ("plain", "strict"))
        assert full["defense"]["suspicion"] == 0
        assert full["timings_ms"]
        assert minimal["defense"]["suspicion"] is None
        assert minimal["timings_ms"] is None


def test_a_chat_goes_by_its_keys_policy(shared, upstream):
    body = chat(user(image_part(suspect(255))))
    path = "/v1/chat/completions"
    full = shared.client.post(path, json=body, headers=bearer("plain")).json()["codefend"]
    assert full["images"][0]["defense"]["flagged"] is True
    assert full["timings_ms"]
    assert shared.client.post(path, json=body, headers=bearer("strict")).status_code == 400
    watched = shared.client.post(path, json=body, headers=bearer("watched")).json()["codefend"]
    assert watched["images"][0]["defense"]["bypassed"] is True
    assert watched["images"][0]["defense"]["flagged"] is None
    assert watched["timings_ms"] is None


def test_what_is_flagged_is_refused_to_one_and_purified_for_another(shared, upstream):
    answers = [ask(shared, key, suspect(255, seed=1)) for key in ("plain", "strict", "watched")]
    assert [answer.status_code for answer in answers] == [200, 400, 200]
    assert answers[1].json()["error"]["code"] == "image_flagged"


def test_a_key_in_shadow_refuses_nothing_that_is_flagged(shared, upstream):
    answer = ask(shared, "trial", suspect(255, seed=2))
    assert answer.status_code == 200
    assert answer.json()["defense"]["bypassed"] is True


def test_an_image_that_fails_passes_for_the_key_that_says_so_alone(shared, upstream):
    bad = encode(marked(picture(), FAIL))
    assert ask(shared, "plain", bad).status_code == 503
    assert ask(shared, "strict", bad).status_code == 503
    assert upstream.bodies == []
    assert ask(shared, "lenient", bad).json()["defense"]["bypassed"] is True
    assert ask(shared, "lenient", bad, "/v1/purify").status_code == 503


def test_rates_are_each_keys_own(shared, upstream):
    statuses = [ask(shared, "slow", plain()).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert [ask(shared, "plain", plain()).status_code for _ in range(4)] == [200] * 4


def test_numbers_at_once_are_each_keys_own(shared):
    held = shared.runtime.limiter.enter("narrow", 1)
    try:
        refusal = ask(shared, "narrow", plain())
        assert refusal.status_code == 429
        assert refusal.json()["error"]["code"] == "concurrency_limit_exceeded"
        assert ask(shared, "plain", plain()).status_code == 200
    finally:
        held.leave()
    assert ask(shared, "narrow", plain()).status_code == 200


def test_metrics_of_all_callers_are_for_a_key_that_is_meant_to_read_them(shared):
    refusal = shared.client.get("/metrics", headers=bearer("plain"))
    assert refusal.status_code == 403
    assert "endpoints" in refusal.json()["error"]["message"]
    assert shared.client.get("/metrics", headers=bearer("scraper")).status_code == 200


def test_a_key_may_be_confined_to_endpoints(shared):
    assert shared.client.get("/metrics", headers=bearer("scraper")).status_code == 200
    for path in ("/v1/models", "/openapi.json", "/nothing", "/metrics/x"):
        refusal = shared.client.get(path, headers=bearer("scraper"))
        assert refusal.status_code == 403
        assert refusal.json()["error"]["code"] == "endpoint_forbidden"
    assert ask(shared, "scraper", plain()).status_code == 403


def test_one_keys_replay_is_no_others(shared, upstream):
    image = plain(seed=7)
    assert ask(shared, "lenient", image).json()["defense"]["cached"] is False
    assert ask(shared, "strict", image).json()["defense"]["cached"] is False


def test_the_audit_says_which_policy_decided(shared, upstream, caplog):
    with caplog.at_level(logging.INFO):
        for key in ("plain", "watched", "strict"):
            ask(shared, key, plain())
        shared.settle()
    lines = [record.fields for record in caplog.records if record.name == "codefend.audit"]
    told = [(line["caller"], line["policy"], line["mode"]) for line in lines]
    assert told == [
        ("plain", "service", "enforce"),
        ("watched", "watch", "shadow"),
        ("strict", "own", "enforce"),
    ]


def test_every_endpoint_has_a_name_that_a_policy_may_give(session_upstream):
    paths = set(create_app(make_settings(session_upstream.url)).openapi()["paths"])
    paths = {path.partition("/{")[0] for path in paths}
    assert paths - PROBES | {"/docs", "/openapi.json"} == ENDPOINTS


def test_a_policy_changes_without_a_restart_and_not_for_who_is_inside(
    session_upstream, upstream, tmp_path, monkeypatch
):
    path = tmp_path / "keys.toml"
    path.write_text('[[keys]]\nname = "ann"\nkey = "ann"\n')
    inside, go_on = threading.Event(), threading.Event()
    settings = make_settings(session_upstream.url, api_keys_file=path, engine_options={})
    with run_service(settings) as service:
        decode = service.runtime.pipeline.decode

        async def decode_slowly(*arguments):
            if not inside.is_set():
                inside.set()
                await asyncio.to_thread(go_on.wait, 30)
            return await decode(*arguments)

        monkeypatch.setattr(service.runtime.pipeline, "decode", decode_slowly)
        answers = []
        first = threading.Thread(target=lambda: answers.append(ask(service, "ann", plain())))
        first.start()
        assert inside.wait(30)
        path.write_text('[[keys]]\nname = "ann"\nkey = "ann"\nmode = "shadow"\n')
        service.wait_until(lambda: is_bypassed(service))
        go_on.set()
        first.join()
        assert answers[0].json()["defense"]["bypassed"] is False
        path.write_text('[[keys]]\nname = "ann"\nkey = "ann"\nmode = "of"\n')
        looked_at_s = service.runtime.keys._looked_at_s
        service.wait_until(
            lambda: is_bypassed(service) and service.runtime.keys._looked_at_s > looked_at_s
        )
        assert is_bypassed(service), "a file gone bad leaves policies as they were"


def is_bypassed(service):
    return ask(service, "ann", plain()).json()["defense"]["bypassed"]
