"""What looks attacked is told, counted, logged, and refused where the settings say so."""

from base64 import b64encode

import numpy as np
import pytest

from codefend.service.policy import Disclosure, Mode, OnFlagged
from tests.service.pictures import encode, picture
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form


def suspect(level, seed=0):
    """The fake engine's suspicion is the level of the last pixel, of 255."""
    pixels = picture(seed=seed).copy()
    pixels[-1, -1] = level
    return encode(pixels)


@pytest.fixture(scope="module")
def suspicious(session_upstream):
    settings = make_settings(
        session_upstream.url, engine_options={"suspects": True}, cache_bytes=1 << 20
    )
    with run_service(settings) as service:
        yield service


def ask(service, image):
    return service.client.post("/v1/vqa", **as_form(image, question="?"))


@pytest.mark.parametrize(
    ("level", "flagged"), [(0, False), (128, False), (252, False), (255, True)]
)
def test_suspicion_is_told_and_flags_above_the_threshold(suspicious, upstream, level, flagged):
    for path, fields in (("/v1/vqa", {"question": "?"}), ("/v1/purify", {})):
        defense = suspicious.client.post(path, **as_form(suspect(level), **fields)).json()[
            "defense"
        ]
        assert defense["suspicion"] == pytest.approx(level / 255)
        assert defense["flagged"] is flagged


def test_a_replay_remembers_its_suspicion(suspicious, upstream):
    answers = [ask(suspicious, suspect(200, seed=1)).json()["defense"] for _ in range(2)]
    assert [answer["cached"] for answer in answers] == [False, True]
    assert answers[0]["suspicion"] == answers[1]["suspicion"] == pytest.approx(200 / 255)


def test_minimal_disclosure_keeps_it_from_the_caller(suspicious, upstream):
    with suspicious.changed(disclose=Disclosure.MINIMAL):
        defense = ask(suspicious, suspect(255)).json()["defense"]
    assert (defense["suspicion"], defense["flagged"]) == (None, None)


def test_what_is_flagged_is_counted(suspicious, upstream):
    before = suspicious.metric("codefend_flagged_total")
    ask(suspicious, suspect(255, seed=2))
    ask(suspicious, suspect(0, seed=2))
    assert suspicious.metric("codefend_flagged_total") == before + 1
    assert suspicious.metric("codefend_suspicion_count") >= 2


def test_refusing_what_is_flagged_forwards_nothing(suspicious, upstream):
    with suspicious.changed(on_flagged=OnFlagged.REFUSE):
        for _ in range(2):  # a replay is refused as well
            response = ask(suspicious, suspect(255, seed=3))
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "image_flagged"
        assert upstream.bodies == []
        assert ask(suspicious, suspect(252, seed=3)).status_code == 200


def test_shadow_mode_refuses_nothing_and_counts_all_the_same(suspicious, upstream):
    before = suspicious.metric("codefend_flagged_total")
    with suspicious.changed(on_flagged=OnFlagged.REFUSE, mode=Mode.SHADOW):
        response = ask(suspicious, suspect(255, seed=4))
    assert response.status_code == 200
    assert response.json()["defense"]["flagged"] is True
    assert suspicious.metric("codefend_flagged_total") == before + 1


def test_every_image_of_a_batch_has_its_own_suspicion(suspicious, upstream):
    from concurrent.futures import ThreadPoolExecutor

    levels = [0, 60, 120, 180, 240]
    with ThreadPoolExecutor(5) as pool:
        answers = pool.map(lambda level: ask(suspicious, suspect(level, seed=5)), levels)
        told = [answer.json()["defense"]["suspicion"] for answer in answers]
    assert told == pytest.approx(np.array(levels) / 255)


def test_one_flagged_image_refuses_its_whole_chat_and_is_named(suspicious, upstream):
    parts = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{b64encode(x).decode()}"},
        }
        for x in (suspect(10, seed=6), suspect(255, seed=6))
    ]
    body = {"messages": [{"role": "user", "content": parts}], "stream": False}
    with suspicious.changed(on_flagged=OnFlagged.REFUSE):
        response = suspicious.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "image_flagged"
    assert response.json()["error"]["param"].startswith("messages[0].content[1]")
    assert upstream.bodies == []
    answer = suspicious.client.post("/v1/chat/completions", json=body).json()
    told = [image["defense"]["flagged"] for image in answer["codefend"]["images"]]
    assert told == [False, True]
