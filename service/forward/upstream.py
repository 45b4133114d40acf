"""Asks the model behind the service: one code path for vLLM and for the embedded model."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import httpx

from codefend.service.errors import UpstreamError
from codefend.service.forward.answer_stream import EVENT_STREAM, AnswerStream
from codefend.service.forward.breaker import Breaker, BreakerState, Passage
from codefend.service.forward.completion import Answer, Completion, read_answer, read_choices
from codefend.service.forward.exchange import Arrival, send_request
from codefend.service.forward.failures import NONSENSE, BadStatus, Failure, Reason
from codefend.service.forward.judgement import error_from, tell
from codefend.service.forward.retries import may_retry, pauses
from codefend.service.settings import Settings

__all__ = ["Upstream", "UpstreamWatch"]

logger = logging.getLogger(__name__)

# A deadline that passes is the upstream's doing only if it had this part of the request's time.
FAIR_SHARE = 0.5
# The loop's timers may fire a little early.
CLOCK_SLACK_S = 0.05


@dataclass(frozen=True, slots=True)
class UpstreamWatch:
    """Who is told, with a short reason, of every failure and of every retry after one."""

    on_error: Callable[[str], None]
    on_retry: Callable[[str], None]


class Upstream:
    """Asks the model; turns whatever goes wrong into UpstreamError."""

    def __init__(
        self, client: httpx.AsyncClient, settings: Settings, breaker: Breaker, watch: UpstreamWatch
    ) -> None:
        """Takes the client.

        Args:
            client: With the base URL of the API.
            settings: The model's name, timeouts, and how long an answer may be.
            breaker: Says whether the model is asked at all.
            watch: Is told what fails.
        """
        self._client = client
        self._settings = settings
        self._model = settings.upstream_model
        self._is_embedded = settings.upstream_url is None
        # Joined once: httpx would parse both parts again for every request.
        base_url = client.base_url
        self._urls = {"GET": base_url.join("models"), "POST": base_url.join("chat/completions")}
        self._breaker = breaker
        self._watch = watch
        self._last_list: bytes | None = None

    def check(self) -> None:
        """Says whether there is any use in asking.

        Raises:
            UpstreamDown: There is none at present.
        """
        self._breaker.check()

    def enter(self, caller: str, deadline_s: float) -> Passage:
        """Takes the passage that every completion needs; whoever took it leaves it in the end.

        Args:
            caller: Who asks.
            deadline_s: Monotonic time at which the answer is worthless.

        Raises:
            UpstreamDown: The model is not asked at present.
        """
        return self._breaker.enter(caller, deadline_s)

    async def complete(self, completion: Completion, passage: Passage) -> Answer:
        """Asks, and waits for the whole answer.

        Raises:
            UpstreamError: There is no answer; its kinds say why.
        """
        with self._judged(passage):
            model = await self._model_for(completion, passage)
            body = json.dumps(completion.body(model, stream=False)).encode()
            return read_answer(await self._whole(await self._send("POST", body, passage)))

    async def stream(self, completion: Completion, passage: Passage) -> AnswerStream:
        """Asks, and returns as soon as the answer begins; the caller closes the stream.

        Raises:
            UpstreamError: There is no answer, or it does not stream; its kinds say why.
        """
        with self._judged(passage, is_whole=False):
            model = await self._model_for(completion, passage)
            body = json.dumps(completion.body(model, stream=True)).encode()
            return await self._streamed(await self._send("POST", body, passage), passage)

    async def relay(self, body: bytes, passage: Passage) -> bytes:
        """Sends a body that is already an OpenAI-style request; returns the answer's bytes.

        Raises:
            UpstreamError: There is no answer, or none that is JSON with choices.
            UpstreamRefused: The upstream refused the request; its siblings say why.
        """
        with self._judged(passage, by_client=True):
            answer = await self._whole(await self._send("POST", body, passage))
            # Read only to be sure of it: it is passed on as it is.
            read_choices(answer)
            return answer

    async def relay_stream(self, body: bytes, passage: Passage) -> AnswerStream:
        """Sends such a body; returns as soon as the answer begins. The caller closes the stream.

        Raises:
            UpstreamError: There is no answer, or it does not stream; the rest as in `relay`.
        """
        with self._judged(passage, by_client=True, is_whole=False):
            return await self._streamed(await self._send("POST", body, passage), passage)

    async def list_models(self, deadline_s: float) -> bytes:
        """The upstream's list of models, as it writes it: the last one while it is not asked.

        Args:
            deadline_s: Monotonic time at which it is worthless.

        Raises:
            UpstreamError: There is none; its kinds say why.
        """
        try:
            self._breaker.check()
        except UpstreamError:
            if self._last_list is None:
                raise
            return self._last_list
        # Apart from the breaker: a server can list its models long after they have died.
        asking = Breaker.aside(deadline_s)
        with self._judged(asking):
            return await self._fetch_list(asking)

    async def default_model(self, passage: Passage) -> str:
        """What the model is called in requests that name none.

        Raises:
            UpstreamError: It is not configured, and the upstream does not say.
        """
        if self._model is None:
            with self._judged(passage, is_whole=False):
                document = json.loads(await self._fetch_list(passage))
                self._model = str(document["data"][0]["id"])
        return self._model

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def _model_for(self, completion: Completion, passage: Passage) -> str:
        return completion.model or await self.default_model(passage)

    async def _fetch_list(self, passage: Passage) -> bytes:
        answer = await self._whole(await self._send("GET", None, passage))
        json.loads(answer.decode())["data"]
        self._last_list = answer
        return answer

    async def _send(self, method: str, body: bytes | None, passage: Passage) -> httpx.Response:
        """Sends a request, again where that is safe; returns when an answer begins."""
        passage.begin()
        for pause_s in pauses(self._settings.upstream_retries):
            try:
                return await self._send_once(method, body)
            except Failure as failure:
                is_safe = may_retry(failure, is_idempotent=method == "GET")
                is_in_time = time.monotonic() + pause_s < passage.deadline_s
                is_asked = self._breaker.state is BreakerState.CLOSED
                if not (is_safe and is_in_time and is_asked):
                    raise
                self._note(failure.reason)
                self._watch.on_retry(failure.reason)
            await asyncio.sleep(pause_s)
        return await self._send_once(method, body)

    async def _send_once(self, method: str, body: bytes | None) -> httpx.Response:
        # Not compressed: chunks come as they were sent, and no answer swells on arrival.
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        url = self._urls[method]
        request = self._client.build_request(method, url, content=body, headers=headers)
        patience_s = self._settings.upstream_first_byte_timeout_s
        response = await send_request(self._client, request, patience_s)
        if response.is_success:
            return response
        said = await self._arrival(response).finish()
        # The status alone: the body of an upstream's error may quote the prompt.
        retry_after = response.headers.get("retry-after", "")
        raise BadStatus(response.status_code, retry_after, said if self._is_embedded else b"")

    def _arrival(self, response: httpx.Response) -> Arrival:
        settings = self._settings
        return Arrival(response, settings.max_answer_bytes, settings.upstream_read_timeout_s)

    async def _whole(self, response: httpx.Response) -> bytes:
        return await self._arrival(response).read()

    async def _streamed(self, response: httpx.Response, passage: Passage) -> AnswerStream:
        settings = self._settings
        arrival = Arrival(
            response,
            settings.max_stream_bytes,
            settings.upstream_read_timeout_s,
            settings.upstream_stream_timeout_s,
        )
        if arrival.media_type != EVENT_STREAM:
            await arrival.close()
            raise Failure(Reason.NONSENSE)
        # An answer that has begun may last longer; its own times bound it from now on.
        passage.deadline_s = inf
        return AnswerStream(arrival, passage, lambda: self._judged(passage))

    @contextmanager
    def _judged(
        self, passage: Passage, *, by_client: bool = False, is_whole: bool = True
    ) -> Iterator[None]:
        """Makes errors of failures, and tells the breaker what came of a request.

        Args:
            passage: The request's.
            by_client: Whether the client wrote the request, and so can mend what is refused.
            is_whole: Whether it is over when this ends well; if not, the rest is judged later.
        """
        try:
            yield
        except asyncio.CancelledError:
            self._judge_deadline(passage)
            raise
        except Failure as failure:
            self._note(failure.reason)
            tell(passage, failure)
            raise error_from(failure, by_client=by_client) from failure
        except NONSENSE as error:
            nonsense = Failure(Reason.NONSENSE)
            self._note(nonsense.reason)
            tell(passage, nonsense)
            raise error_from(nonsense, by_client=by_client) from error
        if is_whole:
            passage.succeed()

    def _judge_deadline(self, passage: Passage) -> None:
        """What the end of a request's time says, whose answer nobody waits for any more.

        If it was the client that left, or if most of the time was spent on our side, nothing.
        """
        if passage.is_settled or time.monotonic() < passage.deadline_s - CLOCK_SLACK_S:
            return
        self._note(Reason.DEADLINE)
        if passage.asked_for_s() >= FAIR_SHARE * self._settings.deadline_s:
            passage.fail_late()
        else:
            passage.leave()

    def _note(self, reason: str) -> None:
        logger.warning("the upstream failed", extra={"fields": {"reason": reason}})
        self._watch.on_error(reason)
