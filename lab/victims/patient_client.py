"""JSON over HTTP to a server that may be busy: the transport under every remote victim."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr

from codefend.lab.errors import LabError
from codefend.lab.victims.retries import Retries

__all__ = ["PatientClient", "RemoteError", "key_from_environment"]

_LONGEST_REASON = 300


class RemoteError(LabError):
    """A remote server gave no usable answer.

    Attributes:
        status: the HTTP status; None where there was no response.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def key_from_environment(variable: str) -> SecretStr | None:
    """The API key in an environment variable; None where it is unset or empty."""
    value = os.environ.get(variable, "").strip()
    return SecretStr(value) if value else None


class PatientClient:
    """Posts JSON, and again after a while where the server is busy or fails; safe in threads."""

    def __init__(
        self,
        base_url: str,
        *,
        key: SecretStr | None = None,
        timeout_s: float = 60.0,
        retries: Retries | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Opens no connection yet.

        Args:
            base_url: of the API, such as ``http://127.0.0.1:8000/v1``.
            key: sent as a bearer token; never shown in an error.
            timeout_s: to connect, and between two bytes.
            retries: when to post again.
            sleep: waits some seconds.

        Raises:
            ValueError: where the URL is not one of HTTP.
        """
        if not base_url.startswith(("http://", "https://")):
            raise ValueError("the base URL must begin with http:// or https://")
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._client = httpx.Client(base_url=base_url, headers=headers, timeout=timeout_s)
        self._retries = retries or Retries()
        self._sleep = sleep

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Posts until there is an answer.

        Args:
            path: below the base URL, without a leading slash.
            body: what is sent, as JSON.

        Returns:
            The answer's JSON object.

        Raises:
            RemoteError: where the server refuses, or fails to the last attempt.
        """
        num_failed = 0
        while True:
            retry_after = None
            try:
                response = self._client.post(path, json=body)
            except httpx.TransportError as error:
                failure = RemoteError(f"{path}: {type(error).__name__}")
            else:
                if response.is_success:
                    return _read(path, response)
                failure = RemoteError(_reason(path, response), response.status_code)
                if not self._retries.is_passing(response.status_code):
                    raise failure
                retry_after = response.headers.get("retry-after")
            num_failed += 1
            wait_s = self._retries.wait_s(num_failed, retry_after, datetime.now(UTC))
            if wait_s is None:
                raise failure
            self._sleep(wait_s)

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()

    def __enter__(self) -> Self:
        """The client itself, closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes all connections."""
        self.close()


def _read(path: str, response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError as error:
        raise RemoteError(f"{path}: the answer is not JSON", response.status_code) from error
    if not isinstance(document, dict):
        raise RemoteError(f"{path}: the answer is not a JSON object", response.status_code)
    return document


def _reason(path: str, response: httpx.Response) -> str:
    """The status, and what an error in OpenAI's shape says."""
    try:
        said = str(response.json()["error"]["message"])[:_LONGEST_REASON]
    except (KeyError, TypeError, ValueError):
        return f"{path}: status {response.status_code}"
    return f"{path}: status {response.status_code}: {said}"
