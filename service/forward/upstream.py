"""Asks the model behind the service: one code path for vLLM and for the embedded model.

Whatever is asked needs a permit of the breaker, and `Upstream` is the one place that settles it.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any

import httpx

from codefend.service.errors import DeadlineExceeded, UpstreamError
from codefend.service.forward.breaker import (
    Breaker,
    BreakerPermit,
    BreakerState,
    Verdict,
    make_breaker,
)
from codefend.service.forward.completion import (
    Answer,
    ChatBody,
    Completion,
    read_answer,
)
from codefend.service.forward.exchange import Arrival, headers_of, make_client, send_request
from codefend.service.forward.failures import (
    NONSENSE,
    Reason,
    UpstreamFailure,
    error_from,
    may_retry,
    pauses,
    settle,
)
from codefend.service.forward.probe import COMPLETIONS, MODELS, UpstreamProbe
from codefend.service.forward.sse import EVENT_STREAM, AnswerStream
from codefend.service.metrics import Metrics
from codefend.service.protocols.base import all_protocols
from codefend.service.settings import Settings

__all__ = ["ModelList", "Upstream", "make_upstream"]

logger = logging.getLogger(__name__)

# A deadline that passes is the upstream's doing only if it had this part of the request's time.
FAIR_SHARE = 0.5
# The loop's timers may fire a little early.
CLOCK_SLACK_S = 0.05


class Upstream:
    """Asks the model; turns whatever goes wrong into UpstreamError.

    Attributes:
        breaker: Says whether the model is asked at all, and gives the permits that all need.
        probe: Says what the upstream serves, and what is set wrongly.
    """

    def __init__(
        self, client: httpx.AsyncClient, settings: Settings, breaker: Breaker, metrics: Metrics
    ) -> None:
        """Takes the client.

        Args:
            client: With the base URL of the API.
            settings: The model's name, timeouts, and how long an answer may be.
            breaker: Says whether the model is asked at all.
            metrics: Where its failures and retries are counted.
        """
        self._client = client
        self._settings = settings
        self._model = settings.upstream_model
        self._is_embedded = settings.upstream_url is None
        key = settings.upstream_key
        self._key = "" if key is None else key.get_secret_value()
        # Joined once: httpx would parse both parts again for every request.
        paths = {MODELS} | {protocol.upstream_path for protocol in all_protocols().values()}
        self._urls = {path: client.base_url.join(path) for path in paths}
        self.breaker = breaker
        self.probe = UpstreamProbe(client, settings)
        self._metrics = metrics
        self._last_list: bytes | None = None

    def check(self, path: str) -> None:
        """Refuses what it would be of no use to ask, before any work is done for it.

        Args:
            path: Of ours.

        Raises:
            ProtocolNotServed: The upstream lacks the protocol of this path.
            UpstreamDown: The model is failing.
        """
        self.probe.check(path)
        self.breaker.check()

    async def complete(self, completion: Completion, permit: BreakerPermit) -> Answer:
        """Asks, and waits for the whole answer.

        Raises:
            UpstreamError: There is no answer; its kinds say why.
        """
        model = completion.model or await self._default_model(permit)
        body = completion.body(model, stream=False)
        with self._judged(permit):
            return read_answer(await self._whole(await self._send(COMPLETIONS, body, permit)))

    async def stream(self, completion: Completion, permit: BreakerPermit) -> AnswerStream:
        """Asks, and returns as soon as the answer begins; the caller closes the stream.

        Raises:
            UpstreamError: There is no answer, or it does not stream; its kinds say why.
        """
        model = completion.model or await self._default_model(permit)
        body = completion.body(model, stream=True)
        with self._judged(permit, is_whole=False):
            return await self._streamed(await self._send(COMPLETIONS, body, permit), permit)

    async def relay(self, chat: ChatBody, permit: BreakerPermit) -> tuple[bytes, list[str]]:
        """Sends a client's own request; returns the answer's bytes, and the ids that it hands out.

        Raises:
            UpstreamError: There is no answer, or none of the protocol's.
            UpstreamRefused: The upstream refused the request; its siblings say why.
        """
        body = await self._body_of(chat, permit)
        with self._judged(permit, by_client=True):
            answer = await self._whole(await self._send_chat(chat, body, permit))
            # Read to be sure of it, and passed on as it is.
            return answer, chat.protocol.ids_of(chat.protocol.read_answer(answer))

    async def relay_stream(self, chat: ChatBody, permit: BreakerPermit) -> AnswerStream:
        """Sends such a request; returns as soon as the answer begins. The caller closes the stream.

        Raises:
            UpstreamError: There is no answer, or it does not stream; the rest as in `relay`.
        """
        body = await self._body_of(chat, permit)
        with self._judged(permit, by_client=True, is_whole=False):
            response = await self._send_chat(chat, body, permit)
            return await self._streamed(response, permit, by_client=True)

    async def list_models(self, deadline_s: float) -> bytes:
        """The upstream's list of models, as it writes it: the last one while it is not asked.

        Args:
            deadline_s: Monotonic time at which it is worthless.

        Raises:
            UpstreamError: There is none; its kinds say why.
        """
        try:
            self.breaker.check()
        except UpstreamError:
            if self._last_list is None:
                raise
            return self._last_list
        # Apart from the breaker: a server can list its models long after they have died.
        asking = Breaker.aside(deadline_s)
        with self._judged(asking):
            return await self._fetch_list(asking)

    async def close(self) -> None:
        """Asks no longer, and closes all connections."""
        await self.probe.stop()
        await self._client.aclose()

    async def _body_of(self, chat: ChatBody, permit: BreakerPermit) -> bytes:
        return chat.body(None if chat.has_model else await self._default_model(permit))

    async def _default_model(self, permit: BreakerPermit) -> str:
        """What the model is called in requests that name none.

        Raises:
            UpstreamError: It is not configured, and the upstream does not say.
        """
        if self._model is None:
            with self._judged(permit, is_whole=False):
                document = json.loads(await self._fetch_list(permit))
                self._model = str(document["data"][0]["id"])
        return self._model

    async def _fetch_list(self, permit: BreakerPermit) -> bytes:
        answer = await self._whole(await self._send(MODELS, None, permit))
        json.loads(answer.decode())["data"]
        self._last_list = answer
        return answer

    async def _send_chat(
        self, chat: ChatBody, body: bytes, permit: BreakerPermit
    ) -> httpx.Response:
        headers = headers_of(chat.protocol, self._settings) | dict(chat.headers)
        return await self._send(chat.protocol.upstream_path, body, permit, headers)

    async def _send(
        self,
        path: str,
        body: bytes | None,
        permit: BreakerPermit,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Sends a request, again where that is safe; returns when an answer begins.

        Args:
            path: Below the base URL.
            body: What is posted; None for a question without one.
            permit: The request's.
            headers: None for those of a question of the service's own.
        """
        permit.begin()
        waits_s: Iterator[float] | None = None
        headers = headers or headers_of(None, self._settings)
        while True:
            try:
                return await self._send_once(path, body, headers)
            except UpstreamFailure as failure:
                waits_s = waits_s or pauses(self._settings.upstream_retries)
                pause_s = next(waits_s, None)
                is_safe = may_retry(failure, is_idempotent=body is None)
                is_asked = self.breaker.state is BreakerState.CLOSED
                if pause_s is None or not (is_safe and is_asked):
                    raise
                if time.monotonic() + pause_s >= permit.deadline_s:
                    raise
                self._note(failure)
                self._metrics.upstream_retries.labels(failure.reason).inc()
            await asyncio.sleep(pause_s)

    async def _send_once(
        self, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        method, url = "GET" if body is None else "POST", self._urls[path]
        request = self._client.build_request(method, url, content=body, headers=headers)
        patience_s = self._settings.upstream_first_byte_timeout_s
        response = await send_request(self._client, request, patience_s)
        if response.is_success:
            return response
        said = await self._arrival(response).finish()
        retry_after = response.headers.get("retry-after", "")
        raise UpstreamFailure.of_status(response.status_code, retry_after, said)

    def _arrival(self, response: httpx.Response) -> Arrival:
        settings = self._settings
        return Arrival(response, settings.max_answer_bytes, settings.upstream_read_timeout_s)

    async def _whole(self, response: httpx.Response) -> bytes:
        return await self._arrival(response).read()

    async def _streamed(
        self, response: httpx.Response, permit: BreakerPermit, *, by_client: bool = False
    ) -> AnswerStream:
        settings = self._settings
        arrival = Arrival(
            response,
            settings.max_stream_bytes,
            settings.upstream_read_timeout_s,
            settings.upstream_stream_timeout_s,
        )
        if arrival.media_type != EVENT_STREAM:
            await arrival.close()
            raise UpstreamFailure(Reason.NONSENSE)
        # An answer that has begun may last longer; its own times bound it from now on.
        permit.deadline_s = inf
        judged = partial(self._judged, permit, by_client=by_client)
        return AnswerStream(arrival, permit.show_life, judged)

    @contextmanager
    def _judged(
        self, permit: BreakerPermit, *, by_client: bool = False, is_whole: bool = True
    ) -> Iterator[None]:
        """Makes errors of failures, and tells the breaker what came of a request.

        Args:
            permit: The request's.
            by_client: Whether the client wrote the request, and so can mend what is refused.
            is_whole: Whether it is over when this ends well; if not, the rest is judged later.
        """
        try:
            yield
        except asyncio.CancelledError:
            self._judge_deadline(permit)
            raise
        except (UpstreamFailure, *NONSENSE) as error:
            nonsense = UpstreamFailure(Reason.NONSENSE)
            failure = error if isinstance(error, UpstreamFailure) else nonsense
            self._note(failure)
            settle(permit, failure)
            is_embedded = self._is_embedded
            raise error_from(failure, by_client=by_client, is_embedded=is_embedded) from error
        if is_whole:
            permit.settle(Verdict.ANSWERED)

    def _judge_deadline(self, permit: BreakerPermit) -> None:
        """What the end of a request's time says, whose answer nobody waits for any more.

        If it was the client that left, or if most of the time was spent on our side, nothing.
        """
        if permit.is_settled or time.monotonic() < permit.deadline_s - CLOCK_SLACK_S:
            return
        self._note(UpstreamFailure(Reason.DEADLINE))
        if permit.asked_for_s() >= FAIR_SHARE * self._settings.deadline_s:
            settle(permit, UpstreamFailure(Reason.DEADLINE))
        else:
            permit.leave()

    def _note(self, failure: UpstreamFailure) -> None:
        """Counts a failure, and tells the operator what the client does not get to know."""
        logger.warning("the upstream failed", extra={"fields": failure.fields(self._key)})
        self._metrics.upstream_errors.labels(failure.reason).inc()
        if failure.is_about_settings:
            self.probe.doubt()


def make_upstream(
    settings: Settings,
    socket_path: str | None,
    metrics: Metrics,
    is_shared: Callable[[], bool],
) -> Upstream:
    """Builds the upstream.

    Args:
        settings: Its address, key and timeouts, and when it is no longer asked.
        socket_path: The embedded model's socket, when there is no upstream.
        metrics: Where its failures are counted.
        is_shared: Says whether there is more than one caller who could ask.
    """
    breaker = make_breaker(settings, metrics, is_shared)
    return Upstream(make_client(settings, socket_path), settings, breaker, metrics)


class ModelList:
    """Keeps the list for a while; all methods belong to the event loop."""

    def __init__(
        self,
        fetch: Callable[[], Coroutine[Any, Any, bytes]],
        lifetime_s: float,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes where the list comes from; nothing is asked yet.

        Args:
            fetch: Asks the upstream.
            lifetime_s: How long an answer is kept; errors are not.
            timeout_s: Time for the upstream to answer, whoever waits.
            clock: Seconds.
        """
        self._fetch = fetch
        self._lifetime_s = lifetime_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._answer = b""
        self._fresh_until_s = float("-inf")
        self._fetching: asyncio.Task[bytes] | None = None

    async def get(self) -> bytes:
        """The list as the upstream writes it, at most so old.

        Callers who come while it is asked for wait for the same answer. One that leaves ends its
        own wait alone.

        Raises:
            DeadlineExceeded: The upstream did not answer in time; and whatever `fetch` raises.
        """
        if self._clock() < self._fresh_until_s:
            return self._answer
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_once())
            self._fetching.add_done_callback(self._end)
        return await asyncio.shield(self._fetching)

    async def close(self) -> None:
        """Asks no longer."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    async def _fetch_once(self) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                self._answer = await self._fetch()
        except TimeoutError as error:
            raise DeadlineExceeded from error
        self._fresh_until_s = self._clock() + self._lifetime_s
        return self._answer

    def _end(self, task: asyncio.Task[bytes]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # looked at: everybody who waited may have left
