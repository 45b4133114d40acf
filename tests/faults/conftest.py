"""A slow, small service whose parts can be broken."""

import pytest

from tests.faults.served import Weights
from tests.service.fake_upstream import run_upstream
from tests.service.running import make_settings, run_service


@pytest.fixture(scope="session")
def upstream():
    with run_upstream() as upstream:
        yield upstream


@pytest.fixture
def flag(tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "killed-once"


@pytest.fixture(scope="session")
def service(upstream, tmp_path_factory):
    options = {"seconds": 0.2, "flag": str(tmp_path_factory.getbasetemp() / "killed-once")}
    settings = make_settings(
        upstream.url,
        engine_options=options,
        max_requests=4,
        max_batch=1,
        deadline_s=20,
        decode_cpu_s=5,
    )
    with run_service(settings) as service:
        yield service


@pytest.fixture
def weights(tmp_path):
    weights = Weights(tmp_path)
    weights.write("one", mark=1, seconds=0.02)
    weights.write("two", mark=2, seconds=0.02)
    weights.flip("one", "1")
    return weights
