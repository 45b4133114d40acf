"""Works on an answer for as long as it may take and somebody waits for it."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from codefend.service.errors import ClientLeft, DeadlineExceeded

__all__ = ["answer_in_time"]

T = TypeVar("T")


async def answer_in_time(request: Request, work: Coroutine[Any, Any, T], deadline_s: float) -> T:
    """Runs `work`, and cancels it when its answer has become worthless.

    Call it when the body has been read: it waits for the client's next message, which is only ever
    its leaving.

    Args:
        request: Whose client may leave.
        work: What to run.
        deadline_s: Monotonic time.

    Raises:
        DeadlineExceeded: It took too long.
        ClientLeft: The client closed the connection.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_leaves(request))
    try:
        async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft
    except TimeoutError as error:
        raise DeadlineExceeded from error
    finally:
        await _cancel(working)
        await _cancel(leaving)


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        # Looked at, so that an error that nobody waits for any more is not reported as forgotten.
        task.exception()
