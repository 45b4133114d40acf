"""The client of the model behind the service: one code path for vLLM and for the embedded model."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx

from service.errors import UpstreamError, UpstreamTimeout
from service.forward.completion import Answer, Completion, read_answer
from service.settings import Settings

__all__ = ["AnswerStream", "Upstream", "make_client"]

logger = logging.getLogger(__name__)

EMBEDDED_URL = "http://embedded/v1"


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
    if settings.upstream_url is None:
        transport = httpx.AsyncHTTPTransport(uds=socket_path, limits=limits)
        return httpx.AsyncClient(base_url=EMBEDDED_URL, transport=transport, timeout=timeout)
    headers = {}
    if settings.upstream_key is not None:
        headers["Authorization"] = f"Bearer {settings.upstream_key.get_secret_value()}"
    return httpx.AsyncClient(
        base_url=settings.upstream_url, headers=headers, timeout=timeout, limits=limits
    )


class AnswerStream:
    """An answer on its way: the payloads of the upstream's server-sent events."""

    def __init__(
        self,
        response: httpx.Response,
        translate_errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._response = response
        self._translate_errors = translate_errors

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
        default_model: str | None,
        on_error: Callable[[str], None],
    ) -> None:
        """Takes the client.

        Args:
            client: With the base URL of the API.
            default_model: Used when a request names none; None asks the upstream what it serves.
            on_error: Called with a short reason whenever the upstream fails.
        """
        self._client = client
        self._model = default_model
        self._on_error = on_error

    async def complete(self, completion: Completion) -> Answer:
        """Asks, and waits for the whole answer.

        Raises:
            UpstreamError: There is no answer.
            UpstreamTimeout: There is none in time.
        """
        model = await self._model_for(completion)
        with self._translate_errors():
            response = await self._client.post(
                "chat/completions", json=completion.body(model, stream=False)
            )
            self._check(response)
            return read_answer(response.json())

    async def stream(self, completion: Completion) -> AnswerStream:
        """Asks, and returns as soon as the answer begins; the caller closes the stream.

        Raises:
            UpstreamError: There is no answer.
            UpstreamTimeout: There is none in time.
        """
        model = await self._model_for(completion)
        with self._translate_errors():
            request = self._client.build_request(
                "POST", "chat/completions", json=completion.body(model, stream=True)
            )
            response = await self._client.send(request, stream=True)
            if response.is_error:
                await response.aclose()
            self._check(response)
            return AnswerStream(response, self._translate_errors)

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def _model_for(self, completion: Completion) -> str:
        if completion.model is not None:
            return completion.model
        if self._model is None:
            self._model = await self._first_model()
        return self._model

    async def _first_model(self) -> str:
        with self._translate_errors():
            response = await self._client.get("models")
            self._check(response)
            document: Any = response.json()
            return str(document["data"][0]["id"])

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        # The status alone: the body of an upstream's error may quote the prompt.
        logger.warning("the upstream answered %d", response.status_code)
        self._on_error(f"status_{response.status_code}")
        raise UpstreamError

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
        except (json.JSONDecodeError, KeyError, IndexError, TypeError, UnicodeDecodeError) as error:
            self._on_error("nonsense")
            raise UpstreamError from error
