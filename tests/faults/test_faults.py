"""What happens when a part of the service breaks, or when there is too much to do."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.loads import head_of
from tests.service.fake_engine import HANG_ONCE, KILL, KILL_ONCE, marked
from tests.service.pictures import encode, picture, png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form, as_raw


def post_many(service, images):
    with ThreadPoolExecutor(len(images)) as threads:
        return list(
            threads.map(lambda image: service.client.post("/v1/purify", **as_raw(image)), images)
        )


def test_a_full_house_answers_429_at_once_and_says_when_to_come_back(service):
    started_s = time.monotonic()
    responses = post_many(service, [png(seed=seed) for seed in range(12)])
    refused = [response for response in responses if response.status_code == 429]
    assert refused
    assert {response.status_code for response in responses} == {200, 429}
    for response in refused:
        assert response.json()["error"]["code"] == "overloaded"
        assert 1 <= int(response.headers["retry-after"]) <= 120
    assert time.monotonic() - started_s < 20
    assert service.runtime.in_flight.num_inside == 0


def test_a_worker_that_dies_is_replaced_and_its_job_is_answered(service, flag):
    flag.unlink(missing_ok=True)
    before = service.runtime.workers.worker_pids
    response = service.client.post("/v1/purify", **as_raw(encode(marked(picture(), KILL_ONCE))))
    assert response.status_code == 200
    assert service.runtime.workers.worker_pids != before
    assert service.metric("codefend_worker_restarts_total", kind="purify") >= 1


def test_an_image_that_kills_every_worker_is_a_503(service):
    response = service.client.post("/v1/purify", **as_raw(encode(marked(picture(), KILL))))
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "purification_failed"
    service.wait_until(lambda: service.runtime.pipeline.is_warm)
    assert service.client.post("/v1/purify", **as_raw(png())).status_code == 200


def test_a_worker_killed_from_outside_loses_no_job(service):
    with ThreadPoolExecutor(3) as threads:
        futures = [
            threads.submit(service.client.post, "/v1/purify", **as_raw(png(seed=seed)))
            for seed in range(3)
        ]
        service.wait_until(lambda: service.runtime.in_flight.num_inside == 3)
        time.sleep(0.1)
        os.kill(service.runtime.workers.worker_pids[0], signal.SIGKILL)
        assert [future.result().status_code for future in futures] == [200] * 3


def test_a_decoder_that_dies_costs_nobody_an_answer(service):
    os.kill(service.runtime._images.decode.pids[0], signal.SIGKILL)
    assert service.client.post("/v1/purify", **as_raw(png())).status_code == 200


def test_a_client_that_leaves_frees_its_place(service):
    image = png()
    for _ in range(3):
        with socket.create_connection(service.address) as connection:
            connection.sendall(head_of(image) + image)
            service.wait_until(lambda: service.runtime.in_flight.num_inside > 0)
    service.wait_until(lambda: service.runtime.in_flight.num_inside == 0, timeout_s=5)
    assert len(service.runtime.queue) == 0
    left = service.metric("codefend_requests_total", endpoint="/v1/purify", outcome="client_left")
    assert left >= 1


def test_passed_deadlines_are_504s_and_after_several_fewer_are_let_in(upstream, tmp_path):
    options = {"flag": str(tmp_path / "hung")}
    settings = make_settings(
        upstream.url, engine_options=options, deadline_s=2, batch_timeout_floor_s=4
    )
    with run_service(settings) as service:
        responses = post_many(service, [encode(marked(picture(), HANG_ONCE))] * 6)
        assert {response.status_code for response in responses} == {504}
        assert responses[0].json()["error"]["code"] == "deadline_exceeded"
        service.wait_until(lambda: service.runtime.limiter._adaptive.most_of("") == 1, timeout_s=20)


def test_the_deadline_counts_from_the_arrival_and_so_while_a_body_dawdles(upstream):
    settings = make_settings(upstream.url, deadline_s=0.5)
    with run_service(settings) as service, socket.create_connection(service.address) as connection:
        connection.sendall(head_of(png()))
        assert b"408" in connection.recv(64)


@pytest.mark.parametrize("path", ["/readyz", "/v1/purify"])
def test_a_failing_warm_up_keeps_the_service_unready(unready, path):
    assert unready.client.get("/healthz").status_code == 200
    response = (
        unready.client.get(path)
        if path == "/readyz"
        else unready.client.post(path, **as_form(png()))
    )
    assert response.status_code == 503


@pytest.fixture(scope="module")
def unready(upstream):
    settings = make_settings(upstream.url, engine_options={"broken": True})
    with run_service(settings, wait=False) as service:
        time.sleep(2)
        yield service


def test_draining_refuses_new_work_and_is_unready(service):
    service.runtime.limiter.is_draining = True
    try:
        assert service.client.get("/readyz").json() == {"status": "draining"}
        response = service.client.post("/v1/purify", **as_form(png()))
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "shutting_down"
    finally:
        service.runtime.limiter.is_draining = False
