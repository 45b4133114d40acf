"""An answer as server-sent events: the upstream's own chunks, and what was done beside the last."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from codefend.service.admit.visit import Visit
from codefend.service.errors import ClientLeft, CodefendError
from codefend.service.forward.sse import AnswerStream, StreamSplicer
from codefend.service.metrics import Stage

__all__ = ["stream_answer", "stream_chat"]

_DONE = b"data: [DONE]\n\n"
# Proxies on the way must not gather chunks.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def stream_answer(
    visit: Visit, answer: AnswerStream, describe: Callable[[], dict[str, Any]]
) -> StreamingResponse:
    """Passes the answer to a question on as it comes.

    The last chunk before `[DONE]` has no choices and a `codefend` object; clients of OpenAI's
    protocol read past it. If the upstream breaks off, an `error` event takes its place.

    Args:
        visit: The request.
        answer: The upstream's stream; closed here, however it ends.
        describe: Makes the `codefend` object, once all stages are over.
    """

    async def events() -> AsyncIterator[bytes]:
        async for payload in answer.payloads():
            yield f"data: {payload}\n\n".encode()
        visit.timings.begin_response()
        last = {"object": "chat.completion.chunk", "choices": [], "codefend": describe()}
        yield f"data: {json.dumps(last)}\n\n".encode()
        yield _DONE

    return _AnswerResponse(visit, answer, events())


def stream_chat(
    visit: Visit, answer: AnswerStream, describe: Callable[[], bytes]
) -> StreamingResponse:
    """Passes a chat's answer on, byte for byte; the `codefend` object joins its last chunk.

    If the upstream breaks off, an `error` event is the last.

    Args:
        visit: The request.
        answer: The upstream's stream; closed here, however it ends.
        describe: Makes the `codefend` object, as JSON, once all stages are over.
    """

    def describe_last() -> bytes:
        visit.timings.begin_response()
        return describe()

    events = answer.passed_through(StreamSplicer(describe_last))
    return _AnswerResponse(visit, answer, events)


class _AnswerResponse(StreamingResponse):
    """Closes the upstream's stream when the last byte is sent, or when the client has left."""

    def __init__(self, visit: Visit, answer: AnswerStream, events: AsyncIterator[bytes]) -> None:
        super().__init__(
            _with_error_event(visit, events), headers=_HEADERS, media_type="text/event-stream"
        )
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.close()


async def _with_error_event(visit: Visit, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    outcome, visit.outcome = visit.outcome, ClientLeft.code  # unless the last event is taken
    try:
        with visit.timings.stage(Stage.FORWARD):
            async for event in events:
                yield event
        visit.outcome = outcome
    except CodefendError as error:
        visit.outcome = error.code
        # Whatever line was begun before it broke off is over: an event begins after an empty line.
        yield f"\n\ndata: {json.dumps(error.body())}\n\n".encode()
