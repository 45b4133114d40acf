"""All settings of the service, read once from CODEFEND_* and never changed afterwards."""

import ipaddress
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["Disclosure", "Mode", "OnPurifyFailure", "Settings", "load_settings"]

PREFIX = "CODEFEND_"
WEIGHTS = Path(__file__).parent.parent / "models" / "weights"
MEBIBYTE = 1 << 20


class Mode(StrEnum):
    """Whether the purified image is what the model sees."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class OnPurifyFailure(StrEnum):
    """What becomes of an image that could not be purified."""

    REFUSE = "refuse"
    PASS = "pass"  # noqa: S105 - the word is a policy, not a password


class Disclosure(StrEnum):
    """How much a response tells about the defence."""

    FULL = "full"
    MINIMAL = "minimal"


class Settings(BaseSettings):
    """Everything that can be set, with its default; each name gains the prefix CODEFEND_."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    # Where it listens, and to whom
    host: str = Field("127.0.0.1", description="Address to bind; loopback unless keys are set.")
    port: int = Field(8000, ge=0, le=65535, description="Port to bind; 0 takes any free one.")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Comma-separated keys; with none, only loopback is served."
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Moves /metrics to an open port of its own."
    )

    # How the defence behaves
    mode: Mode = Field(Mode.ENFORCE, description="shadow forwards the original and only records.")
    on_purify_failure: OnPurifyFailure = Field(
        OnPurifyFailure.REFUSE, description="pass forwards an image that could not be purified."
    )
    disclose: Disclosure = Field(
        Disclosure.FULL, description="minimal leaves every measured value out of responses."
    )

    # admit
    max_requests: int = Field(64, ge=1, description="Requests in the house at once; then 429.")
    max_body_bytes: int = Field(32 * MEBIBYTE, ge=1024, description="Longest request body.")
    body_timeout_s: float = Field(30.0, gt=0, description="Time for a body to arrive.")
    deadline_s: float = Field(60.0, gt=0, description="Time for a whole request; then 504.")

    # decode and encode
    decode_workers: int = Field(2, ge=1, description="Processes that decode.")
    encode_workers: int = Field(2, ge=1, description="Processes that encode.")
    max_pixels: int = Field(25_000_000, ge=1, description="Most pixels of an image.")
    max_side_px: int = Field(10_000, ge=1, description="Longest side of an image.")
    max_jpeg_scans: int = Field(64, ge=1, description="Passes that a progressive JPEG may take.")
    max_file_parts: int = Field(
        65_536, ge=16, description="Chunks of a PNG, or segments of a JPEG."
    )
    decode_timeout_s: float = Field(20.0, gt=0, description="Time for one image.")
    decode_memory_bytes: int = Field(
        1536 * MEBIBYTE, ge=256 * MEBIBYTE, description="Its address space."
    )
    decode_cpu_s: int = Field(20, ge=1, description="Processor seconds that one image may cost.")

    # queue
    max_queue: int = Field(64, ge=1, description="Images waiting for the purifier; then 429.")
    max_batch: int = Field(8, ge=1, description="Most images of a batch.")
    max_batch_pixels: int = Field(
        4_194_304, ge=4096, description="Most padded pixels of a batch of more than one image."
    )
    batch_wait_fraction: float = Field(
        0.1, ge=0, le=1, description="Longest wait for company, as a part of a batch's own time."
    )
    batch_join_waste: float = Field(
        0.3, ge=0, le=4, description="Extra padding an image may take on to join a larger bucket."
    )

    # purify
    purifier: str = Field(str(WEIGHTS / "purifier"), description="Directory or hub id.")
    devices: Annotated[tuple[str, ...], NoDecode] = Field(
        ("auto",), description="One worker each: auto, cpu, cuda:0, ... (comma-separated)."
    )
    cpu_threads: int | None = Field(None, ge=1, description="Threads of a CPU worker; all cores.")
    engine: str = Field(
        "service.purify.torch_engine:load_engine",
        description="Import path of the function that loads the purifying engine.",
    )
    worker_start_timeout_s: float = Field(300.0, gt=0, description="Time for load and warm-up.")
    batch_timeout_s: float = Field(120.0, gt=0, description="Time for a batch; then a new worker.")

    cache_bytes: int = Field(
        256 * MEBIBYTE, ge=0, description="Memory for purified images that are replayed; 0: none."
    )
    cache_lifetime_s: float = Field(
        600.0, gt=0, description="How long the same bytes of the same key get the same image."
    )

    # forward
    upstream_url: str | None = Field(
        None, description="Base URL of an OpenAI-style API (.../v1); with none, the embedded model."
    )
    upstream_key: SecretStr | None = Field(None, description="Its API key.")
    upstream_model: str | None = Field(None, description="Model name; a request's own wins.")
    upstream_connect_timeout_s: float = Field(5.0, gt=0, description="Time to connect.")
    upstream_read_timeout_s: float = Field(60.0, gt=0, description="Time between bytes.")
    upstream_write_timeout_s: float = Field(30.0, gt=0, description="Time to send.")
    upstream_max_connections: int = Field(64, ge=1, description="Connections at once.")
    mllm: str = Field(str(WEIGHTS / "mllm"), description="Directory or hub id of the embedded one.")
    max_answer_tokens: int = Field(1024, ge=1, description="Most tokens a request may ask for.")

    # respond
    drain_timeout_s: float = Field(60.0, ge=0, description="Time for accepted requests to finish.")
    drain_delay_s: float = Field(
        0.0, ge=0, description="Time to keep listening, unready, for balancers to notice."
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Logging.")

    @field_validator("api_keys", "devices", mode="before")
    @classmethod
    def _split_on_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _keyless_means_loopback(self) -> Self:
        if not self.api_keys and not _is_loopback(self.host):
            msg = (
                f"refusing to bind {self.host} without an API key: set CODEFEND_API_KEYS, "
                "or bind a loopback address such as 127.0.0.1"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _an_upstream_url_is_http(self) -> Self:
        if self.upstream_url and not self.upstream_url.startswith(("http://", "https://")):
            msg = "CODEFEND_UPSTREAM_URL must begin with http:// or https://"
            raise ValueError(msg)
        return self


def load_settings() -> Settings:
    """Reads the settings, then takes the secrets out of the environment.

    Child processes inherit the environment: the ones that decode strangers' bytes must not find
    keys there.

    Raises:
        pydantic.ValidationError: A setting is malformed, unknown combinations included.
    """
    settings = Settings()
    for name in ("API_KEYS", "UPSTREAM_KEY"):
        os.environ.pop(PREFIX + name, None)
    return settings


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
