"""A service that ends, however it ends, leaves no process behind and waits for none."""

import asyncio
import multiprocessing

import pytest

from service.app import create_app
from tests.service.running import make_settings, run_service


@pytest.fixture
def children():
    """The processes that were started since."""
    before = set(multiprocessing.active_children())
    return lambda: [
        child.name for child in multiprocessing.active_children() if child not in before
    ]


class Untold(Exception):
    pass


async def fail():
    raise Untold


def test_a_part_that_does_not_stop_keeps_none_of_the_others(upstream, children):
    with run_service(make_settings(upstream.url)) as service:
        assert len(children()) == 3
        service.guard.reloader.stop = fail
        service.guard._upstream.close = fail
    assert children() == []


def test_a_part_that_does_not_start_ends_the_others(upstream, children, monkeypatch):
    monkeypatch.setattr("service.encode.stage.EncodeStage.start", lambda _: fail())
    app = create_app(make_settings(upstream.url))

    async def live():
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(Untold):
        asyncio.run(live())
    assert children() == []
