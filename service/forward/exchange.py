"""One request to the upstream, up to the head of its answer, and the bytes that follow it.

Every phase has its own time: connect, write and pool are httpx's; the wait for the head, the wait
for each piece of the body, and a stream as a whole are timed here, so that an upstream which drips
bytes gains nothing by it.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from codefend.service.forward.failures import Reason, UpstreamFailure, as_failure
from codefend.service.protocols.base import Protocol
from codefend.service.settings import Settings
from codefend.service.tracing import answer_headers, passed_on_headers

__all__ = ["Arrival", "headers_of", "make_client", "send_request"]

EMBEDDED_URL = "http://embedded/v1"

# What is left of an answer that is over is read, so that its connection can be used again.
MOST_LEFT_BYTES = 1 << 16
LEFT_TIMEOUT_S = 0.5
# After so long the event loop gets its turn.
MOST_AT_ONCE_S = 0.01

# What goes into our own answer of the upstream's. Retry-After goes with the errors that ask for it.
_PASSED = re.compile(
    "(?:x|anthropic)-ratelimit-[a-z0-9-]{1,64}|openai-processing-ms|(?:x-)?request-id"
)
_PASSED_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:;=+_%/-]{0,127}")
# The service's own id has that name.
_RENAMED = dict.fromkeys(("request-id", "x-request-id"), "X-Upstream-Request-Id")
MOST_PASSED_HEADERS = 40


def make_client(settings: Settings, socket_path: str | None) -> httpx.AsyncClient:
    """Builds the client of the upstream.

    Args:
        settings: Its address, key and timeouts.
        socket_path: The embedded model's socket, when there is no upstream.
    """
    timeout = httpx.Timeout(
        connect=settings.upstream_connect_timeout_s,
        write=settings.upstream_write_timeout_s,
        pool=settings.upstream_pool_timeout_s,
        # Reading has two phases, and each is timed as a whole where it is waited for.
        read=None,
    )
    limits = httpx.Limits(
        max_connections=settings.upstream_max_connections,
        keepalive_expiry=settings.upstream_keepalive_s,
    )
    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [_name_request],
        "response": [_keep_headers],
    }
    if settings.upstream_url is None:
        transport = httpx.AsyncHTTPTransport(uds=socket_path, limits=limits)
        return httpx.AsyncClient(
            base_url=EMBEDDED_URL, transport=transport, timeout=timeout, event_hooks=hooks
        )
    headers = {}
    if settings.upstream_key is not None:
        headers["Authorization"] = f"Bearer {settings.upstream_key.get_secret_value()}"
    return httpx.AsyncClient(
        base_url=settings.upstream_url,
        headers=headers,
        timeout=timeout,
        limits=limits,
        event_hooks=hooks,
        # None is kept: callers share the client, and what one was answered is not for another.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


def headers_of(protocol: Protocol | None, settings: Settings) -> dict[str, str]:
    """The headers that every request of a protocol has, beside what its client adds.

    Args:
        protocol: None for a question of no protocol's.
        settings: They hold the key.
    """
    # Not compressed: chunks come as they were sent, and no answer swells on arrival.
    headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    if protocol is None:
        return headers
    key = settings.upstream_key
    if protocol.key_header is not None and key is not None:
        headers[protocol.key_header] = key.get_secret_value()
    return headers | dict(protocol.default_headers)


async def _name_request(request: httpx.Request) -> None:
    request.headers.update(passed_on_headers.get())


async def _keep_headers(response: httpx.Response) -> None:
    """Keeps what a client may want to know of an answer; of several answers, the last one's."""
    kept = answer_headers.get()
    if kept is None:
        return
    kept.clear()
    found = {name: value for name, value in response.headers.items() if _PASSED.fullmatch(name)}
    for name, value in list(found.items())[:MOST_PASSED_HEADERS]:
        if _PASSED_VALUE.fullmatch(value):
            kept[_RENAMED.get(name, name)] = value


async def send_request(
    client: httpx.AsyncClient, request: httpx.Request, first_byte_timeout_s: float
) -> httpx.Response:
    """Sends a request; returns when the head of an answer is there. The caller closes it.

    Args:
        client: Sends it.
        request: What to send.
        first_byte_timeout_s: Time for the head, from when the request is sent.

    Raises:
        UpstreamFailure: There is no answer.
    """
    loop = asyncio.get_running_loop()
    is_unsent = False
    try:
        async with asyncio.timeout(None) as waiting:

            async def follow(event: str, _: dict[str, Any]) -> None:
                nonlocal is_unsent
                if event == "http11.send_request_headers.failed":
                    is_unsent = True
                elif event == "http11.receive_response_headers.started":
                    waiting.reschedule(loop.time() + first_byte_timeout_s)

            request.extensions["trace"] = follow
            try:
                return await client.send(request, stream=True)
            finally:
                # Through it the request would hold the task that holds the request, and its body
                # would wait for the garbage collector.
                del request.extensions["trace"]
    except TimeoutError as error:
        raise UpstreamFailure(Reason.FIRST_BYTE_TIMEOUT) from error
    except httpx.HTTPError as error:
        raise as_failure(error, is_unsent=is_unsent) from error


class Arrival:
    """The body of an answer while it comes, read no faster than it is asked for."""

    def __init__(
        self,
        response: httpx.Response,
        max_bytes: int,
        between_bytes_timeout_s: float,
        whole_timeout_s: float | None = None,
    ) -> None:
        """Takes an answer whose head is there.

        Args:
            response: The answer.
            max_bytes: Longest body.
            between_bytes_timeout_s: Time from one piece to the next.
            whole_timeout_s: Time for all of it; None for no bound of its own.
        """
        self._response = response
        self._max_bytes = max_bytes
        self._between_bytes_timeout_s = between_bytes_timeout_s
        self._ends_at_s = None if whole_timeout_s is None else time.monotonic() + whole_timeout_s
        self._pieces = self._read_pieces()

    @property
    def media_type(self) -> str:
        """What the answer says it is."""
        header: str = self._response.headers.get("content-type", "")
        return header.partition(";")[0].strip().lower()

    def pieces(self) -> AsyncIterator[bytes]:
        """Yields the body as it comes; asked again, what is still to come.

        Raises:
            UpstreamFailure: It broke off, stalled, is too long, or is compressed.
        """
        return self._pieces

    async def read(self) -> bytes:
        """The whole body; closes the answer.

        Raises:
            UpstreamFailure: As `pieces`.
        """
        try:
            return b"".join([piece async for piece in self._pieces])
        finally:
            await self._response.aclose()

    async def finish(self) -> bytes:
        """Closes an answer that need not be read; returns what was left, if it came at once."""
        left: list[bytes] = []
        num_bytes = 0
        with suppress(TimeoutError, UpstreamFailure):
            async with asyncio.timeout(LEFT_TIMEOUT_S):
                async for piece in self._pieces:
                    left.append(piece)
                    num_bytes += len(piece)
                    if num_bytes > MOST_LEFT_BYTES:
                        break
        await self.close()
        return b"".join(left)

    async def close(self) -> None:
        """Closes the answer; its connection too, if anything of it is still to come."""
        await self._response.aclose()

    async def _read_pieces(self) -> AsyncIterator[bytes]:
        # None was asked for. A few bytes could swell to gigabytes, and no piece would be as sent.
        if self._response.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise UpstreamFailure(Reason.ENCODED)
        arriving = self._response.aiter_bytes()
        num_bytes = 0
        yielded_at_s = time.monotonic()
        while (piece := await self._next_piece(arriving)) is not None:
            num_bytes += len(piece)
            if num_bytes > self._max_bytes:
                raise UpstreamFailure(Reason.TOO_LONG)
            yield piece
            if time.monotonic() - yielded_at_s > MOST_AT_ONCE_S:
                # What the network brought at once may be ten thousand chunks of a byte, and none of
                # them is waited for.
                await asyncio.sleep(0)
                yielded_at_s = time.monotonic()

    async def _next_piece(self, arriving: AsyncIterator[bytes]) -> bytes | None:
        patience_s = self._between_bytes_timeout_s
        if self._ends_at_s is not None:
            patience_s = min(patience_s, self._ends_at_s - time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, patience_s)):
                return await anext(arriving, None)
        except TimeoutError as error:
            is_over = self._ends_at_s is not None and time.monotonic() >= self._ends_at_s
            raise UpstreamFailure(
                Reason.STREAM_TIMEOUT if is_over else Reason.READ_TIMEOUT
            ) from error
        except httpx.HTTPError as error:
            raise UpstreamFailure(Reason.CUT) from error
