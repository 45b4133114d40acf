"""Reads a request body, counting its bytes and its time."""

import asyncio
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from codefend.service.errors import BodyTimeout, BodyTooLarge, ClientLeft

__all__ = ["read_body"]


async def read_body(
    request: Request, max_bytes: int, timeout_s: float, take: Callable[[int], None]
) -> bytes:
    """Reads the whole body.

    Bytes are counted as they come: a chunked body, or a false Content-Length, gains nothing.

    Args:
        request: Whose body it is.
        max_bytes: Longest body.
        timeout_s: Time for it to arrive.
        take: Takes so many bytes out of the service's memory before they are read, or refuses.

    Raises:
        BodyTooLarge: It is longer than `max_bytes`.
        OutOfMemory: There is no memory for it now.
        BodyTimeout: It did not arrive in time.
        ClientLeft: The client closed the connection.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    # What is announced is taken at once: half a body is of no use.
    num_taken = int(announced) if announced.isdecimal() else 0
    take(num_taken)
    chunks: list[bytes] = []
    num_bytes = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise _too_large(max_bytes)
                if num_bytes > num_taken:
                    take(num_bytes - num_taken)
                    num_taken = num_bytes
                chunks.append(chunk)
    except TimeoutError as error:
        raise BodyTimeout from error
    except ClientDisconnect as error:
        raise ClientLeft from error
    return b"".join(chunks)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is over {max_bytes} bytes long.")
