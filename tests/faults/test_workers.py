"""Workers that are killed, hang, fall silent, lack memory or fall sick, with requests waiting."""

import errno
import os
import signal
import threading

import pytest

from tests.faults.loads import is_clear_refusal, is_right, pictures, post, post_all
from tests.service.fake_engine import (
    FAIL,
    HANG_ONCE,
    KILL,
    KILL_ONCE,
    SICKEN_ONCE,
    marked,
)
from tests.service.pictures import picture, png
from tests.service.running import make_settings, run_service
from tests.service.test_chat import PATH, chat, image_part, text_part, user

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def flag(tmp_path_factory):
    return tmp_path_factory.mktemp("flags") / "once"


@pytest.fixture(scope="module")
def crew(upstream, flag):
    """Batches of up to eight that take a third of a second; ended when they take four."""
    settings = make_settings(
        upstream.url,
        engine_options={"seconds": 0.3, "flag": str(flag)},
        max_batch=8,
        worker_silence_s=4,
        batch_timeout_floor_s=4,
    )
    with run_service(settings) as service:
        yield service


@pytest.fixture
def service(crew, flag):
    flag.unlink(missing_ok=True)
    crew.wait_until(lambda: crew.runtime.pipeline.is_warm)
    return crew


def occupy(service):
    """Gives the worker something to do, so that what is sent next waits and shares a batch."""
    thread = threading.Thread(target=post, args=(service, picture(seed=99)))
    thread.start()
    service.wait_until(lambda: service.runtime.queue.num_running > 0)
    return thread


@pytest.mark.parametrize("colour", [KILL, FAIL])
def test_of_a_full_batch_the_image_at_fault_alone_is_refused(service, colour):
    sent = pictures(8)
    sent[5] = marked(sent[5], colour)
    failures = sum(failed_batches(service).values())
    occupying = occupy(service)
    responses = post_all(service, sent)
    occupying.join()
    bad = responses.pop(5)
    assert is_clear_refusal(bad)
    assert bad.headers["x-should-retry"] == "false", "openai's client would send it again"
    del sent[5]
    assert all(map(is_right, responses, sent))
    assert sum(failed_batches(service).values()) - failures <= 5


def failed_batches(service):
    reasons = ("raised", "out_of_memory", "died", "hung")
    name = "codefend_batch_failures_total"
    return {reason: service.metric(name, reason=reason) for reason in reasons}


@pytest.mark.parametrize(
    ("colour", "reason"), [(KILL_ONCE, "died"), (HANG_ONCE, "hung"), (SICKEN_ONCE, "died")]
)
def test_a_worker_that_is_lost_is_replaced_and_its_whole_batch_answered(service, colour, reason):
    sent = pictures(4)
    sent[2] = marked(sent[2], colour)
    before = failed_batches(service)
    pids = service.runtime.workers.worker_pids
    occupying = occupy(service)
    responses = post_all(service, sent)
    occupying.join()
    assert all(map(is_right, responses, sent))
    assert failed_batches(service)[reason] == before[reason] + 1
    assert service.runtime.workers.worker_pids != pids


def test_a_worker_whose_heart_stops_is_replaced(service):
    [pid] = service.runtime.workers.worker_pids
    os.kill(pid, signal.SIGSTOP)
    assert is_right(post(service, picture()), picture())
    assert service.runtime.workers.worker_pids != [pid]


def test_an_idle_worker_that_dies_is_replaced_before_anybody_asks(service):
    [pid] = service.runtime.workers.worker_pids
    restarts = service.metric("codefend_worker_restarts_total", kind="purify")
    os.kill(pid, signal.SIGKILL)
    service.wait_until(lambda: not service.runtime.pipeline.is_warm)
    service.wait_until(lambda: service.runtime.pipeline.is_warm)
    assert service.runtime.workers.worker_pids != [pid]
    assert service.metric("codefend_worker_restarts_total", kind="purify") == restarts + 1


def test_requests_wait_while_a_worker_is_replaced_and_balancers_are_told(service):
    os.kill(service.runtime.workers.worker_pids[0], signal.SIGKILL)
    service.wait_until(lambda: not service.runtime.pipeline.is_warm)
    assert service.client.get("/readyz").status_code == 503
    assert service.client.get("/healthz").status_code == 200
    assert is_right(post(service, picture()), picture())
    assert service.client.get("/readyz").status_code == 200


def test_batches_become_as_small_as_the_memory_is(upstream):
    options = {"seconds": 0.2, "memory_pixels": 256 * 256}
    with run_service(make_settings(upstream.url, engine_options=options)) as service:
        sent = pictures(8, height=128, width=128)
        for _ in range(2):
            occupying = occupy(service)
            assert all(map(is_right, post_all(service, sent), sent))
            occupying.join()
            if _ == 0:
                lacking = failed_batches(service)["out_of_memory"]
        assert lacking >= 1
        assert failed_batches(service)["out_of_memory"] == lacking, "learned the first time"
        too_large = post(service, picture(320, 320))
        assert is_clear_refusal(too_large)
        assert is_right(post(service, picture()), picture())
        assert service.metric("codefend_worker_restarts_total", kind="purify") == 0


def test_who_needs_no_worker_waits_for_none(upstream):
    settings = make_settings(upstream.url, cache_bytes=1 << 24)
    with run_service(settings) as service:
        known = chat(user(text_part(), image_part(png(seed=1))))
        assert service.client.post(PATH, json=known).status_code == 200
        os.kill(service.runtime.workers.worker_pids[0], signal.SIGSTOP)
        busy = threading.Thread(target=post, args=(service, picture(seed=2)))
        busy.start()
        service.wait_until(
            lambda: len(service.runtime.queue) + service.runtime.queue.num_running > 0
        )
        for body in (known, chat(user(text_part()))):
            assert service.client.post(PATH, json=body, timeout=5).status_code == 200
        assert service.client.get("/v1/models", timeout=5).status_code == 200
        assert not service.runtime.queue.num_running or busy.is_alive()
        busy.join()


def test_without_shared_memory_pictures_are_refused_for_a_while_and_nobody_dies(
    upstream, monkeypatch
):
    with run_service(make_settings(upstream.url, cache_bytes=1 << 24)) as service:
        runtime = service.runtime
        assert is_right(post(service, picture()), picture())
        pids = [
            *runtime.workers.worker_pids,
            *runtime._images.decode.pids,
            *runtime._images.encode.pids,
        ]

        def lack(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("codefend.service.processes.pixels._reserve", lack)
            for sent in (picture(), picture(seed=1)):  # one is known, one is not
                refused = post(service, sent)
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "out_of_memory"
                assert int(refused.headers["retry-after"]) >= 1
            assert service.client.post(PATH, json=chat(user(text_part()))).status_code == 200
        assert is_right(post(service, picture(seed=1)), picture(seed=1))
        assert pids == [
            *runtime.workers.worker_pids,
            *runtime._images.decode.pids,
            *runtime._images.encode.pids,
        ]
        assert runtime.memory.num_held == 0
        assert len(os.listdir(runtime._images.pixels.directory)) == 1, "its lock alone"
