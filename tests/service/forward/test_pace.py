"""However an upstream cuts its stream, the event loop goes on turning."""

import asyncio
import gc
import time
from contextlib import nullcontext

import httpx
import pytest

from codefend.service.forward.breaker import Breaker
from codefend.service.forward.exchange import Arrival, send_request
from codefend.service.forward.sse import AnswerStream, StreamSplicer
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from tests.service.raw_upstream import DONE, STREAM_HEAD, chunked, listening, words

LAST = chunked(words("a", reason="stop"))
END = chunked(DONE) + chunked(b"")


async def longest_turn_s(turns):
    """How long the loop worked before it turned again; `turns` takes each as it ends.

    Processor time of this thread: a busy machine may take it away for as long as it likes.
    """
    before_s = time.thread_time()
    while True:
        await asyncio.sleep(0)
        now_s = time.thread_time()
        turns.append(now_s - before_s)
        before_s = now_s


@pytest.fixture
def no_garbage_collection():
    """What other tests left behind is not the stream's."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    "middle",
    [
        chunked(b":\n" * (1 << 19)),
        chunked(b":\n") * (1 << 14),
        chunked(b":") + chunked(b"\n") * (1 << 14),
    ],
    ids=["one chunk", "a chunk each line", "a chunk each byte"],
)
def test_no_stream_holds_the_event_loop(middle, no_garbage_collection):
    async def main():
        async with listening() as upstream, httpx.AsyncClient() as client:
            upstream.script = STREAM_HEAD + LAST + middle + END
            request = client.build_request("POST", upstream.url, content=b"{}")
            response = await send_request(client, request, 5)
            arrival = Arrival(response, 1 << 28, 5)
            answer = AnswerStream(arrival, Breaker.aside(60).show_life, nullcontext)
            turns = []
            turning = asyncio.create_task(longest_turn_s(turns))
            splicer = StreamSplicer(CHAT_COMPLETIONS.make_reader(), lambda: b"{}")
            passed = b"".join([piece async for piece in answer.passed_through(splicer)])
            turning.cancel()
            await answer.close()
            assert passed.endswith(DONE)
            assert max(turns) < 0.05

    asyncio.run(main())
