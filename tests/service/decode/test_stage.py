"""What the stage says of its processes at the start."""

import asyncio
import logging

from codefend.service.decode.stage import DecodeStage
from tests.service.running import make_settings


def test_layers_that_a_kernel_lacks_are_logged_once(monkeypatch, caplog):
    stage = DecodeStage(make_settings(), "", lambda: None, lambda: False)

    async def start(_):
        return [{"unconfined": ["files are not restricted"]}] * 2

    monkeypatch.setattr(stage._pool, "start", start)
    with caplog.at_level(logging.WARNING):
        asyncio.run(stage.start(None))
    assert [record.getMessage() for record in caplog.records] == [
        "decode processes are confined less: files are not restricted"
    ]
