"""An answer as server-sent events: the upstream's own chunks, then one that says what was done."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse

from service.admit.visit import Visit
from service.errors import CodefendError
from service.forward.upstream import AnswerStream
from service.metrics import Stage

__all__ = ["stream_answer"]

_DONE = "data: [DONE]\n\n"


def stream_answer(
    visit: Visit, answer: AnswerStream, describe: Callable[[], dict[str, Any]]
) -> StreamingResponse:
    """Passes an answer on as it comes.

    The last chunk before `[DONE]` has no choices and a `codefend` object; clients of OpenAI's
    protocol read past it. If the upstream breaks off, an `error` event takes its place.

    Args:
        visit: The request.
        answer: The upstream's stream; closed here, however it ends.
        describe: Makes the `codefend` object, once all stages are over.
    """
    return StreamingResponse(_events(visit, answer, describe), media_type="text/event-stream")


async def _events(
    visit: Visit, answer: AnswerStream, describe: Callable[[], dict[str, Any]]
) -> AsyncIterator[str]:
    try:
        with visit.timings.stage(Stage.FORWARD):
            async for payload in answer.payloads():
                yield f"data: {payload}\n\n"
        visit.timings.begin_response()
        last = {"object": "chat.completion.chunk", "choices": [], "codefend": describe()}
        yield f"data: {json.dumps(last)}\n\n"
        yield _DONE
    except CodefendError as error:
        visit.outcome = error.code
        yield f"data: {json.dumps(error.body())}\n\n"
    finally:
        await answer.close()
