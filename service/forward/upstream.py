"""The client of the model behind the service: one code path for vLLM and for the embedded model."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx

from service.forward.completion import Answer, Completion, read_answer
from service.forward.errors import UpstreamError, UpstreamTimeout
from service.forward.refusals import refusal_from_status
from service.settings import Settings
from service.tracing.context import current_trace

__all__ = ["AnswerStream", "Upstream", "make_client"]

logger = logging.getLogger(__name__)

EMBEDDED_URL = "http://embedded/v1"
_NONSENSE = (ValueError, RecursionError, LookupError, TypeError, AttributeError)


def make_client(settings: Settings, socket_path: str | None) -> httpx.AsyncClient:
    """Builds the HTTP client.

    Args:
        settings: Address, key and timeouts of the upstream.
        socket_path: The embedded model's socket, when there is no upstream.
    """
    timeout = httpx.Timeout(
        connect=settings.upstream_connect_timeout_s,
        read=settings.upstream_read_timeout_s,
        write=settings.upstream_write_timeout_s,
        pool=settings.upstream_read_timeout_s,
    )
    limits = httpx.Limits(max_connections=settings.upstream_max_connections)
    hooks = {"request": [_pass_on_trace]}
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
    )


async def _pass_on_trace(request: httpx.Request) -> None:
    trace = current_trace.get()
    if trace is not None:
        request.headers["traceparent"] = trace.traceparent


class AnswerStream:
    """An answer on its way: server-sent events, read from the upstream no faster than passed on."""

    def __init__(
        self,
        response: httpx.Response,
        translate_errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._response = response
        self._translate_errors = translate_errors

    async def passed_through(
        self, feed: Callable[[bytes], Iterable[bytes]], end: Callable[[], bytes]
    ) -> AsyncIterator[bytes]:
        """Yields what becomes of the upstream's bytes, as they come.

        Args:
            feed: Takes bytes and yields those to pass on; ValueError for what is no answer.
            end: Returns the last ones; ValueError for an answer that is not whole.

        Raises:
            UpstreamError: The stream broke off, or was no answer.
        """
        with self._translate_errors():
            async for chunk in self._response.aiter_bytes():
                passed, failure = _gather(feed(chunk))
                if passed:
                    yield passed
                if failure is not None:
                    raise failure
            yield end()

    async def payloads(self) -> AsyncIterator[str]:
        """Yields each event's data; ends before `[DONE]`.

        Raises:
            UpstreamError: The stream broke off.
        """
        with self._translate_errors():
            async for line in self._response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                payload = line.removeprefix("data:").strip()
                if payload == "[DONE]":
                    return
                yield payload

    async def close(self) -> None:
        """Lets the upstream know that nobody listens any more."""
        await self._response.aclose()


class Upstream:
    """Asks the model; turns whatever goes wrong into UpstreamError."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        settings: Settings,
        on_error: Callable[[str], None],
    ) -> None:
        """Takes the client.

        Args:
            client: With the base URL of the API.
            settings: The model's name, and how long an answer may be.
            on_error: Called with a short reason whenever the upstream fails.
        """
        self._client = client
        self._model = settings.upstream_model
        self._max_answer_bytes = settings.max_answer_bytes
        self._is_embedded = settings.upstream_url is None
        self._on_error = on_error

    async def complete(self, completion: Completion) -> Answer:
        """Asks, and waits for the whole answer.

        Raises:
            UpstreamError: There is no answer.
            UpstreamTimeout: There is none in time.
        """
        body = completion.body(await self._model_for(completion), stream=False)
        with self._translate_errors():
            response = await self._send("POST", "chat/completions", _as_json(body))
            return read_answer(json.loads(await self._read(response)))

    async def stream(self, completion: Completion) -> AnswerStream:
        """Asks, and returns as soon as the answer begins; the caller closes the stream.

        Raises:
            UpstreamError: There is no answer.
            UpstreamTimeout: There is none in time.
        """
        body = completion.body(await self._model_for(completion), stream=True)
        with self._translate_errors():
            response = await self._send("POST", "chat/completions", _as_json(body))
            return AnswerStream(response, self._translate_errors)

    async def relay(self, body: bytes) -> bytes:
        """Sends a body that is already an OpenAI-style request; returns the answer's bytes.

        Raises:
            UpstreamError: There is no answer, or none that is JSON with choices.
            UpstreamRefused: The upstream refused the request; its siblings say why.
            UpstreamTimeout: There is no answer in time.
        """
        with self._translate_errors():
            response = await self._send("POST", "chat/completions", body, by_client=True)
            answer = await self._read(response)
            # Read only to be sure of it: it is passed on as it is.
            json.loads(answer)["choices"][0]
            return answer

    async def relay_stream(self, body: bytes) -> AnswerStream:
        """Sends such a body; returns as soon as the answer begins. The caller closes the stream.

        Raises:
            UpstreamError: There is no answer, or it does not stream; the rest as in `relay`.
        """
        with self._translate_errors():
            response = await self._send("POST", "chat/completions", body, by_client=True)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                await response.aclose()
                msg = "no stream"
                raise TypeError(msg)
            return AnswerStream(response, self._translate_errors)

    async def list_models(self) -> bytes:
        """The upstream's list of models, as it writes it.

        Raises:
            UpstreamError: There is none.
            UpstreamTimeout: There is none in time.
        """
        with self._translate_errors():
            answer = await self._read(await self._send("GET", "models"))
            json.loads(answer)["data"]
            return answer

    async def default_model(self) -> str:
        """What the model is called in requests that name none.

        Raises:
            UpstreamError: It is not configured, and the upstream does not say.
        """
        if self._model is None:
            document = json.loads(await self.list_models())
            with self._translate_errors():
                self._model = str(document["data"][0]["id"])
        return self._model

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def _model_for(self, completion: Completion) -> str:
        return completion.model or await self.default_model()

    async def _send(
        self, method: str, path: str, body: bytes | None = None, *, by_client: bool = False
    ) -> httpx.Response:
        """Sends a request; returns when an answer begins. Whoever does not read it closes it.

        Args:
            method: GET or POST.
            path: Below the base URL.
            body: JSON.
            by_client: Whether the client wrote the request, and so can mend what is refused.
        """
        # Not compressed: chunks come as they were sent, and no answer swells on arrival.
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        request = self._client.build_request(method, path, content=body, headers=headers)
        response = await self._client.send(request, stream=True)
        if response.is_success:
            return response
        content = await self._read(response)
        # The status alone: the body of an upstream's error may quote the prompt.
        logger.warning("the upstream answered %d", response.status_code)
        self._on_error(f"status_{response.status_code}")
        if not by_client:
            raise UpstreamError
        retry_after = response.headers.get("retry-after", "")
        said = content if self._is_embedded else b""
        raise refusal_from_status(response.status_code, retry_after, said)

    async def _read(self, response: httpx.Response) -> bytes:
        """Reads the whole answer, and closes it."""
        chunks: list[bytes] = []
        num_bytes = 0
        try:
            async for chunk in response.aiter_bytes():
                num_bytes += len(chunk)
                if num_bytes > self._max_answer_bytes:
                    msg = "the answer is too long"
                    raise ValueError(msg)
                chunks.append(chunk)
        finally:
            await response.aclose()
        return b"".join(chunks)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            self._on_error("timeout")
            raise UpstreamTimeout from error
        except httpx.HTTPError as error:
            logger.warning("the upstream failed: %s", type(error).__name__)
            self._on_error("connection")
            raise UpstreamError from error
        except _NONSENSE as error:
            self._on_error("nonsense")
            raise UpstreamError from error


def _as_json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _gather(pieces: Iterable[bytes]) -> tuple[bytes, Exception | None]:
    """Joins what comes before a failure, which is to be passed on before it is told of."""
    gathered: list[bytes] = []
    try:
        for piece in pieces:
            gathered.append(piece)
    except _NONSENSE as failure:
        return b"".join(gathered), failure
    return b"".join(gathered), None
