"""Who comes in when more come than can be served, over HTTP: keys, rates, turns and leavers."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.loads import head_of, is_right, pictures, post
from tests.service.pictures import encode, picture, png
from tests.service.running import make_settings, run_service

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def shared(upstream):
    """One image at a time, five a second, for three keys."""
    settings = make_settings(
        upstream.url,
        engine_options={"seconds": 0.2},
        api_keys="ann,bob,cid",
        max_batch=1,
        max_requests=16,
    )
    with run_service(settings) as service:
        yield service


def flood(threads, service, key, number, first_seed=0):
    return [threads.submit(post, service, pixels, key) for pixels in pictures(number, first_seed)]


def error_of(response):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["type"], error["code"]


def test_a_key_that_floods_leaves_room_and_turns_for_the_others(shared):
    with ThreadPoolExecutor(20) as threads:
        flooding = flood(threads, shared, "ann", 18)
        shared.wait_until(lambda: sum(future.done() for future in flooding) >= 6)
        bobs, cids = (
            post(shared, picture(seed=seed), key) for seed, key in ((50, "bob"), (51, "cid"))
        )
        num_waiting = sum(not future.done() for future in flooding)
        responses = [future.result() for future in flooding]
    assert is_right(bobs, picture(seed=50))
    assert is_right(cids, picture(seed=51))
    assert num_waiting >= 2, "they came last and were answered before the rest of the flood"
    refused = [response for response in responses if response.status_code != 200]
    assert len(responses) - len(refused) >= 12
    assert {error_of(response) for response in refused} == {
        (429, "rate_limit_error", "concurrency_limit_exceeded")
    }
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused)


def test_a_refusal_waits_for_no_body(shared):
    with ThreadPoolExecutor(12) as threads:
        flooding = flood(threads, shared, "ann", 12)
        shared.wait_until(lambda: shared.runtime.in_flight.num_inside == 12)
        with socket.create_connection(shared.address) as connection:
            connection.sendall(head_of(bytes(30 << 20), "ann"))
            assert b"429" in connection.recv(64)
        assert all(future.result().status_code == 200 for future in flooding)


def test_images_of_clients_who_left_are_never_purified(shared):
    image = png()
    before = shared.metric("codefend_batch_size_count")
    connections = [socket.create_connection(shared.address) for _ in range(8)]
    for connection in connections:
        connection.sendall(head_of(image, "bob") + image)
    shared.wait_until(lambda: len(shared.runtime.queue) + shared.runtime.queue.num_running > 0)
    with ThreadPoolExecutor(1) as threads:
        staying = threads.submit(post, shared, picture(seed=7), "ann")
        shared.wait_until(lambda: shared.runtime.in_flight.num_inside >= 5)
        for connection in connections:
            connection.close()
        assert is_right(staying.result(), picture(seed=7))
    shared.wait_until(lambda: shared.runtime.in_flight.num_inside == 0)
    assert shared.metric("codefend_batch_size_count") - before < 8
    assert len(shared.runtime.queue) == 0


def test_no_place_is_kept_after_many_clients_left_at_any_moment(shared):
    image = encode(picture(300, 300))
    for part in range(40):
        with socket.create_connection(shared.address) as connection:
            sent = head_of(image, "bob") + image
            connection.sendall(sent[: len(sent) * (part + 1) // 40])
    shared.wait_until(lambda: shared.runtime.in_flight.num_inside == 0, timeout_s=60)
    assert shared.runtime.in_flight.num_arriving == 0
    assert is_right(post(shared, picture(), "ann"), picture())


def test_rates_and_bounds_of_keys(upstream):
    settings = make_settings(
        upstream.url,
        engine_options={"seconds": 0.5},
        api_keys="ann,bob",
        max_requests_per_key=2,
        max_requests_per_minute=4,
    )
    with run_service(settings) as service, ThreadPoolExecutor(4) as threads:
        busy = [future.result() for future in flood(threads, service, "ann", 4)]
        refused = [response for response in busy if response.status_code != 200]
        assert len(refused) == 2
        for response in refused:
            assert error_of(response)[2] == "concurrency_limit_exceeded"
        later = (post(service, picture(), "ann") for _ in range(30))
        limited = next(response for response in later if response.status_code != 200)
        assert error_of(limited) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(limited.headers["retry-after"]) <= 15
        assert post(service, picture(), "bob").status_code == 200
        counted = service.metric("codefend_rejected_total", reason="rate_limit_exceeded")
        assert counted == 1
