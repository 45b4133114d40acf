"""An upstream that is slow, dead or lying: clear errors, a breaker that opens and closes, and a
service that is alive and ready all the while. Only the breaker's clock is the tests'."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.service.pictures import png
from tests.service.raw_upstream import (
    DONE,
    GOOD,
    GOOD_STREAM,
    SECRET,
    STREAM_HEAD,
    RawUpstream,
    chunked,
    run_raw_upstream,
    then_close,
    then_hang,
    until,
    whole,
    words,
)
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form, as_raw
from tests.service.test_chat import PATH, chat, image_part, text_part, user

NUM_FAILURES, NUM_TRIALS, PAUSE_S = 3, 2, 1000.0
STATES = {"closed": 0, "on trial": 1, "open": 2}


class Play:
    """A service, its upstream, and the time that its breaker believes it is."""

    def __init__(self, service, raw):
        self.service = service
        self.raw = raw
        self.skipped_s = 0.0
        self.breaker = service.runtime._upstream.breaker
        self.breaker.clock = lambda: time.monotonic() + self.skipped_s

    def ask(self, **fields):
        body = chat(user(text_part(), image_part(png())), **fields) | {"model": "m"}
        return self.service.client.post(PATH, json=body)

    def question(self):
        return self.service.client.post("/v1/vqa?model=m", **as_form(png(), question="?"))

    @property
    def state(self):
        value = self.service.metric("codefend_upstream_breaker_state")
        return next(name for name, number in STATES.items() if number == value)

    @property
    def openings(self):
        return self.service.metric("codefend_upstream_breaker_openings_total")

    def num_runs(self, stage):
        return self.service.metric("codefend_stage_duration_seconds_count", stage=stage)

    def heal(self):
        """Good answers, and time enough for trials."""
        self.raw.script = answer_well
        self.skipped_s += 100 * PAUSE_S
        while self.state != "closed":
            assert self.ask().status_code == 200


async def answer_well(writer, request):
    line, _, body = request
    if line.startswith("GET"):
        writer.write(whole({"data": [{"id": "m"}]}))
    else:
        writer.write(GOOD_STREAM if b'"stream": true' in body or b'"stream":true' in body else GOOD)


def settings_for(raw, **changes):
    values = {
        "upstream_breaker_failures": NUM_FAILURES,
        "upstream_breaker_trials": NUM_TRIALS,
        "upstream_breaker_pause_s": PAUSE_S,
        "upstream_breaker_max_pause_s": 3 * PAUSE_S,
        "upstream_retries": 0,
        "deadline_s": 60,
    }
    return make_settings(raw.url, **(values | changes))


@contextmanager
def playing(raw, **changes):
    with run_service(settings_for(raw, **changes)) as service, stays_alive(service):
        yield Play(service, raw)


@contextmanager
def stays_alive(service):
    """Asks the probes all the while; each answer has to be 200."""
    answers, is_over = [], threading.Event()

    def watch():
        with httpx.Client(base_url=service.url, timeout=60) as client:
            is_last = False
            while not is_last:  # a test may be over before the client is made: it asks once more
                is_last = is_over.wait(0.02)
                answers.extend(client.get(path).status_code for path in ("/healthz", "/readyz"))

    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch)
        try:
            yield
        finally:
            is_over.set()
        watching.result()
    assert answers
    assert set(answers) == {200}


@pytest.fixture(scope="module")
def shared():
    # Short where an upstream hangs; nothing good takes any time here.
    haste = {"upstream_read_timeout_s": 1, "upstream_first_byte_timeout_s": 1}
    with run_raw_upstream() as raw, playing(raw, **haste) as play:
        yield play


@pytest.fixture
def play(shared):
    shared.heal()
    yield shared
    shared.heal()


def is_clear(response, status, code):
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert SECRET not in response.text + str(response.headers)


def is_refused(response):
    is_clear(response, 503, "upstream_down")
    assert 1 <= int(response.headers["retry-after"]) <= 3 * PAUSE_S


SLOW, NONE = (504, "upstream_timeout"), (502, "upstream_error")


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        (then_hang(), SLOW),
        (then_hang(GOOD[:-9]), SLOW),
        (then_close(), NONE),
        (then_close(GOOD[:-9]), NONE),
        (whole({"error": SECRET}, 500), NONE),
        (whole(f"<html>{SECRET}".encode(), 502, "text/html"), NONE),
        (whole(f"<html>{SECRET}".encode(), 200, "text/html"), NONE),
        (whole({"choices": SECRET}), NONE),
        (whole(b"\xff\xfe" + SECRET.encode("utf-16-le")), NONE),
    ],
    ids=["hangs", "stalls", "hangs up", "cut", "500", "502", "HTML", "another shape", "no UTF-8"],
)
def test_it_opens_after_failures_and_closes_after_trials(play, script, answer):
    openings, play.raw.script = play.openings, script
    for ask in (play.ask, play.question, play.ask):
        assert play.state == "closed"
        is_clear(ask(), *answer)
    assert (play.state, play.openings) == ("open", openings + 1)
    # Refused at the door: nothing is decoded or purified for a model that is not asked.
    asked, work = len(play.raw.requests), play.num_runs("decode") + play.num_runs("purify")
    for response in (play.ask(), play.question(), play.ask(stream=True)):
        is_refused(response)
    assert (len(play.raw.requests), play.num_runs("decode") + play.num_runs("purify")) == (
        asked,
        work,
    )
    # What needs no model is served.
    assert play.service.client.post("/v1/purify", **as_raw(png())).status_code == 200
    # As many trials as are set, and then everything.
    play.raw.script = answer_well
    play.skipped_s += PAUSE_S
    assert play.ask().status_code == 200
    assert play.state == "on trial"
    assert play.question().status_code == 200
    assert (play.state, play.openings) == ("closed", openings + 1)
    assert play.ask(stream=True).status_code == 200


@pytest.mark.parametrize(
    "script",
    [
        then_close(STREAM_HEAD + chunked(words("a"))),
        then_hang(STREAM_HEAD + chunked(words("a"))),
        STREAM_HEAD + chunked(words("a") + b'data: {"error": "' + SECRET.encode() + b'"}\n\n'),
        STREAM_HEAD + chunked(words("a") + b"data: " + SECRET.encode() + b"\n\n" + DONE),
    ],
    ids=["cut", "stalls", "an error", "nonsense"],
)
def test_streams_that_break_off_say_so_and_open_it_too(play, script):
    play.raw.script = script
    ask_vqa = {"question": "?", "stream": "true", "model": "m"}
    for number in range(NUM_FAILURES):
        path, form = (PATH, None) if number else ("/v1/vqa", as_form(png(), **ask_vqa))
        response = play.service.client.post(path, **form) if form else play.ask(stream=True)
        assert response.status_code == 200
        *_, last = [line for line in response.text.split("\n") if line]
        assert "error" in json.loads(last.removeprefix("data: "))
        assert "[DONE]" not in response.text
        assert SECRET not in response.text
    assert play.state == "open"
    is_refused(play.ask(stream=True))


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429])
def test_what_the_client_or_the_key_is_at_fault_for_does_not_open_it(play, status):
    play.raw.script = whole({"error": SECRET}, status)
    for _ in range(3 * NUM_FAILURES):
        assert play.ask().status_code in {status, 502}
    assert play.state == "closed"


def test_a_trial_that_fails_prolongs_the_pause(play):
    play.raw.script = then_close()
    for _ in range(NUM_FAILURES):
        play.ask()
    for factor in (2, 3, 3):
        play.skipped_s += 3 * PAUSE_S
        is_clear(play.ask(), *NONE)
        assert play.state == "open"
        assert (factor - 1) * PAUSE_S < int(play.ask().headers["retry-after"]) <= factor * PAUSE_S


def test_while_trials_are_under_way_others_are_refused_unpurified(play):
    play.raw.script = whole({}, 503)
    for _ in range(NUM_FAILURES):
        is_clear(play.ask(), 503, "upstream_unavailable")
    play.skipped_s += PAUSE_S
    may_answer = threading.Event()

    async def answer_when_told(writer, request):
        await until(may_answer.is_set)
        await answer_well(writer, request)

    play.raw.script, asked = answer_when_told, len(play.raw.requests)
    with ThreadPoolExecutor(NUM_TRIALS) as threads:
        trials = [threads.submit(play.ask) for _ in range(NUM_TRIALS)]
        play.service.wait_until(lambda: len(play.raw.requests) == asked + NUM_TRIALS)
        purified = play.num_runs("purify")
        is_refused(play.ask())
        assert play.num_runs("purify") == purified
        may_answer.set()
        assert [trial.result().status_code for trial in trials] == [200] * NUM_TRIALS
    assert play.state == "closed"


def test_a_trial_that_never_reaches_the_model_gives_its_place_back(play):
    play.raw.script = whole({}, 500)
    for _ in range(NUM_FAILURES):
        play.ask()
    play.skipped_s += PAUSE_S
    play.raw.script = answer_well
    for _ in range(3 * NUM_TRIALS):
        assert play.service.client.post("/v1/vqa", **as_raw(b"no image")).status_code >= 400
    for _ in range(NUM_TRIALS):
        assert play.ask().status_code == 200
    assert play.state == "closed"


def test_clients_that_leave_do_not_open_it(play):
    asked = len(play.raw.requests)
    play.raw.script = then_hang()
    body = json.dumps(chat(user(text_part())) | {"model": "m"}).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    for number in range(2 * NUM_FAILURES):
        with socket.create_connection(play.service.address) as connection:
            connection.sendall(head.encode() + body)
            play.service.wait_until(lambda n=number: len(play.raw.requests) == asked + n + 1)
    play.service.wait_until(lambda: play.service.runtime.in_flight.num_inside == 0)
    assert play.state == "closed"


def test_the_list_of_models_is_the_last_one_while_it_is_open(play):
    models = play.service.client.get("/v1/models").json()
    play.raw.script = whole({}, 500)
    is_clear(play.service.client.get("/v1/models"), *NONE)
    for _ in range(NUM_FAILURES):
        play.ask()
    asked = len(play.raw.requests)
    assert play.service.client.get("/v1/models").json() == models
    assert len(play.raw.requests) == asked


def test_dead_it_is_not_waited_for_and_alive_it_is_found_again():
    raw = RawUpstream()
    with run_raw_upstream(raw):
        pass
    with playing(raw) as play:
        for _ in range(NUM_FAILURES):
            is_clear(play.ask(), *NONE)
        is_refused(play.ask())
        is_refused(play.service.client.get("/v1/models"))
        assert play.service.metric("codefend_upstream_errors_total", reason="connect") == 3
        with run_raw_upstream(raw, raw.port):
            play.heal()


def test_a_deadline_that_passes_at_the_upstream_opens_it():
    with run_raw_upstream() as raw:
        raw.script = then_hang()
        with playing(raw, deadline_s=4) as play:
            with ThreadPoolExecutor(NUM_FAILURES) as threads:
                asking = [threads.submit(play.ask) for _ in range(NUM_FAILURES)]
                for asked in asking:
                    is_clear(asked.result(), 504, "deadline_exceeded")
            assert play.state == "open"
