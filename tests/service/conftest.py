"""One running service and one upstream for all tests that do not need their own."""

import pytest

from tests.service.fake_upstream import run_upstream
from tests.service.running import make_settings, run_service


@pytest.fixture(scope="session")
def session_upstream():
    with run_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def session_service(session_upstream):
    with run_service(make_settings(session_upstream.url)) as service:
        yield service


@pytest.fixture
def upstream(session_upstream):
    reset(session_upstream)
    yield session_upstream
    reset(session_upstream)


def reset(upstream):
    upstream.bodies.clear()
    upstream.headers.clear()
    upstream.status = 200
    upstream.reply = upstream.probe_reply = None


@pytest.fixture
def service(session_service, upstream):
    return session_service
