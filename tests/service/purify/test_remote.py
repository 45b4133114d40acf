"""An engine whose devices are elsewhere: what it does when one of them is gone."""

from dataclasses import dataclass

import numpy as np
import pytest

from codefend.models.buckets import Bucket
from codefend.models.purifier.strengths import Strength
from codefend.service.purify.engine import DeviceOutOfMemory, RemoteEngine
from codefend.service.purify.worker import run_batch
from tests.service.fake_engine import MARKS, FakeEngine
from tests.service.pictures import picture

ray_exceptions = pytest.importorskip("ray.exceptions")
remote = pytest.importorskip("codefend.service.purify.remote")

BUCKET = Bucket(64, 64)


@dataclass
class Answer:
    of: object

    def result(self, timeout_s):
        assert timeout_s > 0
        if isinstance(self.of, Exception):
            raise self.of
        return self.of


class Replicas:
    """A handle of Ray's, whose replicas fail as told before they answer."""

    def __init__(self, *failures):
        self._engine, self.failures = FakeEngine(suspects=True), list(failures)
        self.num_asked = 0

    def __getattr__(self, method):
        return type("Method", (), {"remote": staticmethod(lambda *a: self._ask(method, *a))})

    def _ask(self, method, *arguments):
        self.num_asked += 1
        if self.failures and method == "run_batch":
            return Answer(self.failures.pop(0))
        if method == "describe":
            return Answer(self._engine.facts)
        if method == "suspect":
            return Answer(self._engine.suspect(*arguments))
        return Answer(run_batch(self._engine, *arguments))


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)


def test_it_does_what_a_worker_does():
    engine = remote.RayEngine(Replicas())
    assert isinstance(engine, RemoteEngine)
    assert not isinstance(FakeEngine(), RemoteEngine)
    uploads = [picture(seed=1), picture(40, 30, seed=2)]
    purified, suspicions = engine.run_batch(BUCKET, uploads)
    for upload, found in zip(uploads, purified, strict=True):
        assert np.array_equal(found, 255 - upload)
    assert suspicions == [float(upload[-1, -1, 0]) / 255 for upload in uploads]
    strong, _ = engine.run_batch(BUCKET, uploads, Strength.STRONG)
    assert (strong[0][0, :, 2] == MARKS[Strength.STRONG]).all()
    batch = np.stack([picture(64, 64, seed) for seed in range(2)])
    assert np.array_equal(engine.purify(batch), 255 - batch)
    assert engine.facts.name == "fake"


def test_what_a_replica_did_not_answer_another_does():
    gone = ray_exceptions.ActorDiedError()
    busy = remote.BackPressureError(num_queued_requests=9, max_queued_requests=9)
    replicas = Replicas(gone, busy, gone)
    engine = remote.RayEngine(replicas)
    purified, _ = engine.run_batch(BUCKET, [picture()])
    assert np.array_equal(purified[0], 255 - picture())
    assert replicas.num_asked == 5  # what it is; three in vain; the answer


def test_a_batch_that_ends_one_replica_after_another_is_given_back():
    replicas = Replicas(*[ray_exceptions.ActorDiedError()] * 9)
    engine = remote.RayEngine(replicas)
    with pytest.raises(ray_exceptions.RayActorError):
        engine.run_batch(BUCKET, [picture()])
    assert len(replicas.failures) == 9 - remote.MOST_LOSSES


def test_what_the_engine_there_raises_comes_through():
    engine = remote.RayEngine(Replicas(DeviceOutOfMemory()))
    with pytest.raises(DeviceOutOfMemory):
        engine.run_batch(BUCKET, [picture()])


def test_guards_ask_for_as_many_batches_as_they_are_told():
    cluster = pytest.importorskip("codefend.service.cluster")
    from tests.service.running import make_settings

    settings = cluster.behind_ray(make_settings(), 3)
    assert settings.devices == ("cpu",) * 3
    assert settings.engine == cluster.REMOTE_ENGINE
