"""Weights and prompts that change while requests go on: none is dropped, none is mixed up."""

import os
import signal

import numpy as np
import pytest

from codefend.models.manifest import describe_weights, write_manifest
from codefend.models.prompts.templates import Task
from codefend.service.policy import Mode
from tests.faults.loads import Senders
from tests.faults.served import RELOADED, served, wait_for_metric
from tests.service.pictures import encode, picture, pixels_of
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form, from_data_url

NUM_CLIENTS = 6


@pytest.fixture
def service(upstream, weights):
    settings = make_settings(
        upstream.url,
        purifier=str(weights.link),
        prompts=weights.prompts,
        cache_bytes=1 << 20,
        max_batch=4,
    )
    with run_service(settings) as service:
        yield service


def ask(service, pixels):
    return service.client.post("/v1/vqa", **as_form(encode(pixels), question="?"))


def made_by(response, pixels):
    """The versions of purifier and prompts that an answer names; the picture has to agree."""
    assert response.status_code == 200, response.text
    answer = response.json()
    purified = pixels_of(from_data_url(answer["purified_image"])[1])
    version = answer["defense"]["purifier"]["version"]
    expected = 255 - pixels
    expected[0, 1] = int(version)
    assert np.array_equal(purified, expected)
    return version, answer["defense"]["prompt_template"]["version"]


def reload_and_wait(service, outcome="ok"):
    before = reloads(service, outcome)
    service.reload()
    service.wait_until(lambda: reloads(service, outcome) == before + 1, 60)


def reloads(service, outcome):
    return service.metric("codefend_reloads_total", outcome=outcome)


class Clients(Senders):
    """They note what made each answer."""

    def __init__(self, service):
        super().__init__(service, NUM_CLIENTS, first_seed=1000)
        self.versions = []
        self.errors = []

    def wait_for(self, number):
        target = len(self.versions) + number
        self._service.wait_until(lambda: self.errors or len(self.versions) >= target)

    def send(self, pixels):
        self.versions.append(made_by(ask(self._service, pixels), pixels))

    def fail(self, error):
        self.errors.append(error)


def test_under_load_every_request_is_answered_by_one_generation_or_the_other(service, weights):
    pids = service.runtime.workers.worker_pids
    with Clients(service) as clients:
        clients.wait_for(10)
        for name, version in (("two", "2"), ("one", "1"), ("two", "2")):
            weights.flip(name, version)
            reload_and_wait(service)
            clients.wait_for(3 * NUM_CLIENTS)
            assert clients.versions[-1] == (version, version)
    assert clients.errors == []
    assert {("1", "1"), ("2", "2")} <= set(clients.versions)
    assert service.metric("codefend_worker_restarts_total", kind="purify") == 0
    assert service.metric("codefend_generation") == 4
    service.wait_until(lambda: not any(is_alive(pid) for pid in pids))


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "outcome"), [({"broken": True}, "not_warm"), ({"spoils": True}, "bad_output")]
)
def test_weights_that_cannot_serve_change_nothing(service, weights, options, outcome, caplog):
    pids = service.runtime.workers.worker_pids
    weights.write("bad", **options)
    weights.flip("bad", "9")
    with Clients(service) as clients:
        reload_and_wait(service, outcome)
        clients.wait_for(2 * NUM_CLIENTS)
    assert clients.errors == []
    assert set(clients.versions) == {("1", "1")}
    assert service.runtime.workers.worker_pids == pids
    assert service.metric("codefend_generation") == 1
    assert "failed, and changed nothing" in caplog.text
    # A worker that dies now comes back with its own weights, not with those behind the link.
    os.kill(pids[0], signal.SIGKILL)
    service.wait_until(lambda: not service.runtime.pipeline.is_warm)
    assert made_by(ask(service, picture(seed=1)), picture(seed=1)) == ("1", "1")
    weights.flip("two", "2")
    reload_and_wait(service)
    assert made_by(ask(service, picture(seed=1)), picture(seed=1)) == ("2", "2")


def test_weights_that_differ_from_their_manifest_change_nothing(service, weights):
    entry = describe_weights("two", licence="MIT", command="", figures={}, directory=weights.root)
    write_manifest([entry], weights.root)
    weights.write("two", mark=3)
    weights.flip("two")
    reload_and_wait(service, "bad_weights")
    assert made_by(ask(service, picture()), picture()) == ("1", "1")
    weights.write("two", mark=2, seconds=0.02)
    reload_and_wait(service)
    assert made_by(ask(service, picture(seed=2)), picture(seed=2))[0] == "2"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"caption": 1, "vqa": 1, "chat": 1}'])
def test_prompts_that_are_malformed_change_nothing(service, weights, content):
    weights.flip("two", "2")
    weights.prompts.unlink() if content is None else weights.prompts.write_text(content)
    reload_and_wait(service, "bad_prompts")
    assert made_by(ask(service, picture()), picture()) == ("1", "1")


def test_a_replay_is_never_an_older_generations(service, weights):
    pixels = picture(seed=5)
    assert ask(service, pixels).json()["defense"]["cached"] is False
    assert ask(service, pixels).json()["defense"]["cached"] is True
    weights.flip("two", "2")
    reload_and_wait(service)
    fresh = ask(service, pixels)
    assert fresh.json()["defense"]["cached"] is False
    assert made_by(fresh, pixels) == ("2", "2")


def test_workers_of_both_generations_may_die_meanwhile(service, weights):
    weights.write("slow", mark=3, waits=True)
    weights.flip("slow", "3")
    old = service.runtime.workers.worker_pids
    pools = pools_made(service)
    service.reload()
    service.wait_until(lambda: pools and pools[0].pids)
    os.kill(old[0], signal.SIGKILL)
    service.wait_until(lambda: service.runtime.workers.worker_pids not in ([], old))
    assert made_by(ask(service, picture()), picture()) == ("1", "1")
    os.kill(pools[0].pids[0], signal.SIGKILL)
    service.wait_until(lambda: reloads(service, "not_warm") == 1)
    assert made_by(ask(service, picture(seed=1)), picture(seed=1)) == ("1", "1")


def test_reloads_asked_for_during_one_are_one_more(service, weights):
    weights.write("slow", mark=3, waits=True)
    weights.flip("slow", "3")
    pools = pools_made(service)
    service.reload()
    service.wait_until(lambda: pools and pools[0].pids)
    weights.flip("two", "2")
    for _ in range(5):
        service.reload()
    weights.write("slow", mark=3)
    service.wait_until(lambda: reloads(service, "ok") == 2)
    assert made_by(ask(service, picture()), picture()) == ("2", "2")
    assert len(pools) == 2


def test_a_service_ends_in_the_middle_of_a_reload(service, weights):
    weights.write("slow", mark=3, waits=True)
    weights.flip("slow", "3")
    pools = pools_made(service)
    service.reload()
    service.wait_until(lambda: pools and pools[0].pids)


def pools_made(service):
    """The pools that are prepared from now on."""
    pools = []
    make = service.runtime.workers._make_pool

    def make_and_note(version):
        pools.append(make(version))
        return pools[-1]

    service.runtime.workers._make_pool = make_and_note
    return pools


def test_an_unforeseen_failure_is_counted_and_changes_nothing(service, weights, monkeypatch):
    def fail(*_):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("codefend.service.runtime.load_model_version", fail)
    reload_and_wait(service, "error")
    assert made_by(ask(service, picture()), picture()) == ("1", "1")
    monkeypatch.undo()
    weights.flip("two", "2")
    reload_and_wait(service)
    assert made_by(ask(service, picture()), picture()) == ("2", "2")


def test_the_signal_reloads_a_service_of_its_own(upstream, weights):
    with served(upstream, weights) as (process, client):
        weights.flip("two", "2")
        process.send_signal(signal.SIGHUP)
        wait_for_metric(client, RELOADED)
        response = client.post("/v1/vqa", **as_form(encode(picture()), question="?"))
        assert made_by(response, picture()) == ("2", "2")
        process.terminate()
        assert process.wait(60) == 0


def test_where_purification_is_off_prompts_alone_are_reloaded(upstream, weights):
    settings = make_settings(
        upstream.url, purifier=str(weights.link), prompts=weights.prompts, mode=Mode.OFF
    )
    with run_service(settings) as service:
        weights.write("bad", broken=True)
        weights.flip("bad", "2")
        reload_and_wait(service)
        assert service.runtime.pipeline.prompts.templates[Task.VQA].version == "2"
        assert ask(service, picture()).json()["defense"]["prompt_template"] is None
        assert service.runtime.workers.worker_pids == []
