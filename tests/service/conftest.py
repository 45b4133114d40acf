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
    session_upstream.bodies.clear()
    session_upstream.headers.clear()
    session_upstream.status = 200
    session_upstream.reply = None
    return session_upstream


@pytest.fixture
def service(session_service, upstream):
    return session_service
