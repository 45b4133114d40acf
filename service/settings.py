"""All settings of the service, read once from CODEFEND_* and never changed afterwards."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from codefend.models.codec import JPEG_QUALITY, ImageFormat
from codefend.models.prompts.templates import GENERATOR, SHIPPED_TEMPLATES, read_templates
from codefend.models.purifier.strengths import Strength
from codefend.models.tiles import Tiling
from codefend.service.credentials import (
    check_key,
    check_nothing_is_kept,
    check_origins,
    hash_key,
    is_loopback,
    read_keys,
)
from codefend.service.devices import Backend, CpuDtype, GpuDtype, check_backend, check_cpu_dtype
from codefend.service.policy import (
    Animated,
    Disclosure,
    Mode,
    OnFlagged,
    OnPurifyFailure,
    Policy,
    Quarantined,
    TextImages,
    UnknownFields,
)
from codefend.service.protocols.prompting import PromptPlace, PromptSource
from codefend.service.sealing import check_public_key

__all__ = ["Settings", "load_settings"]

PREFIX = "CODEFEND_"
WEIGHTS = Path(__file__).parent.parent / "models" / "weights"
MEBIBYTE = 1 << 20


class Settings(BaseSettings):
    """Everything that can be set, with its default; each name gains the prefix CODEFEND_."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    # Where it listens, and to whom
    host: str = Field(
        "127.0.0.1", description="Address to bind: a loopback address unless API keys are set."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to bind; 0 takes any free port.")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Comma-separated API keys. Without any, only loopback is served."
    )
    api_keys_file: Path | None = Field(
        None,
        description="TOML file of [[keys]], each a name, a sha256 or key, and a policy; read anew.",
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Moves /metrics to an open port of its own."
    )

    cors_origins: Annotated[tuple[str, ...], NoDecode, AfterValidator(check_origins)] = Field(
        (),
        description="Comma-separated origins (https://app.example) whose web pages may use the "
        "service; * for all, where keys are set.",
    )
    page: bool | None = Field(
        None,
        description="Whether / shows a page on which to try the service. It needs no key, and asks "
        "for one to send requests with; none: it is there where no key is set.",
    )
    max_connections: int = Field(
        1024,
        ge=8,
        description="Connections at once, lowered to what the limit of open files leaves; then the "
        "one that is longest without a request is closed, and where none is, 503.",
    )
    head_timeout_s: float = Field(
        10.0, gt=0, description="Time for a request's line and header fields; after it, 408."
    )

    # How the defence behaves
    mode: Mode = Field(
        Mode.ENFORCE,
        description="shadow forwards the original and only records; off purifies nothing at all.",
    )
    strength: Strength = Field(
        Strength.STANDARD,
        description="How much noise is added and taken out again: light keeps more of a picture, "
        "strong takes out more of an attack, in twice the time; standard is the purifier's own "
        "noise level. The policy of a key may say otherwise.",
    )
    on_purify_failure: OnPurifyFailure = Field(
        OnPurifyFailure.REFUSE,
        description="What becomes of an image that could not be purified: pass forwards it.",
    )
    on_flagged: OnFlagged = Field(
        OnFlagged.PURIFY,
        description="What becomes of an image that looks attacked: refuse answers 400.",
    )
    disclose: Disclosure = Field(
        Disclosure.FULL, description="minimal leaves every measured value out of responses."
    )

    # quarantine of what looks attacked
    quarantine: Quarantined = Field(
        Quarantined.NONE,
        description="flagged keeps images that look attacked, and what they were purified to, "
        "sealed, in a directory; the policy of a key may say otherwise.",
    )
    quarantine_directory: Path | None = Field(
        None, description="Where sealed images lie: a directory of their own, on a disk."
    )
    quarantine_key: Annotated[str | None, AfterValidator(check_public_key)] = Field(
        None,
        description="Public key that they are sealed with; codefend quarantine keygen makes it.",
    )
    quarantine_max_bytes: int = Field(
        1024 * MEBIBYTE,
        ge=MEBIBYTE,
        description="Most bytes of all sealed images; beyond it, further ones are not kept.",
    )
    quarantine_lifetime_s: float = Field(
        604_800.0, gt=0, description="Time after which a sealed image is deleted."
    )

    # admit
    max_requests: int = Field(
        64, ge=1, description="Requests in flight; more, or any that would be late, get 429."
    )
    max_requests_per_key: int | None = Field(
        None,
        ge=1,
        description="Requests in flight of one key. Of several keys, none ever gets all places.",
    )
    max_requests_per_minute: int | None = Field(
        None, ge=1, description="Requests of one key a minute; more get 429."
    )
    max_body_bytes: int = Field(32 * MEBIBYTE, ge=1024, description="Longest request body.")
    body_timeout_s: float = Field(
        30.0, gt=0, description="Time for a body to arrive; after it, 408."
    )
    unread_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Time a client may leave its answer unread; after it, the connection is cut.",
    )
    max_memory_bytes: int = Field(
        2048 * MEBIBYTE,
        ge=MEBIBYTE,
        description="Most bytes of bodies, images and answers of all requests in flight; more get "
        "503. Images lie in shared memory (/dev/shm), which has to hold them.",
    )
    deadline_s: float = Field(
        30.0, gt=0, description="Time from a request's arrival to its answer; after it, 504."
    )

    # which fields of a chat pass
    allowed_fields: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Comma-separated fields (chat_template, messages.foo) that pass unread."
    )
    unknown_fields: UnknownFields = Field(
        UnknownFields.REFUSE,
        description="What becomes of fields that are not known: drop takes them out.",
    )
    upstream_reads_text_images: Annotated[tuple[TextImages, ...], NoDecode] = Field(
        (), description="How the upstream reads images out of texts; such texts are refused."
    )

    # decode and encode
    decode_workers: int = Field(2, ge=1, description="Processes that decode images.")
    encode_workers: int = Field(2, ge=1, description="Processes that encode images.")
    max_pixels: int = Field(25_000_000, ge=1, description="Most pixels of one image; more get 413.")
    max_side_px: int = Field(
        10_000, ge=1, description="Longest side of one image; a longer one gets 413."
    )
    max_images: int = Field(32, ge=1, description="Most images of one chat; more get 400.")
    max_request_pixels: int = Field(
        100_000_000,
        ge=1,
        description="Most pixels of all images of one chat together; more get 413.",
    )
    max_jpeg_scans: int = Field(64, ge=1, description="Most scans of a progressive JPEG.")
    max_file_parts: int = Field(
        65_536, ge=16, description="Most parts of an image's file: chunks, segments, blocks, boxes."
    )
    animated: Animated = Field(
        Animated.REFUSE,
        description="What becomes of an image with several frames: first takes the first of them.",
    )
    decode_timeout_s: float = Field(20.0, gt=0, description="Time to decode one image.")
    decode_memory_bytes: int = Field(
        1536 * MEBIBYTE, ge=256 * MEBIBYTE, description="Address space of a process that decodes."
    )
    decode_cpu_s: int = Field(20, ge=1, description="Processor time to decode one image.")

    forward_format: ImageFormat = Field(
        ImageFormat.PNG,
        description="File that the model gets of a purified image, and clients who name none: png "
        "and webp keep every pixel, jpeg is smaller.",
    )
    jpeg_quality: int = Field(
        JPEG_QUALITY,
        ge=1,
        le=100,
        description="Quality of JPEGs that are written, on libjpeg's scale; from 90 on colours "
        "keep their resolution.",
    )

    # queue
    max_queue: int = Field(
        2048,
        ge=1,
        description="Images, and tiles of large ones, that wait for the purifier; more get 429.",
    )
    max_batch: int = Field(8, ge=1, description="Most images of a batch.")
    max_batch_pixels: int = Field(
        4_194_304,
        ge=4096,
        description="Most pixels, padding included, of a batch of several images.",
    )
    batch_wait_fraction: float = Field(
        0.1, ge=0, le=1, description="Longest wait for company, as a part of a batch's own time."
    )
    batch_join_waste: float = Field(
        0.3, ge=0, le=4, description="Extra padding an image may take on to join a larger bucket."
    )

    # purify
    purify_side_px: int = Field(
        0,
        ge=0,
        description="Longest side of an image; a longer one is first scaled down to it, each pixel "
        "the mean of what it covers. The model gets the scaled image. 0 scales nothing.",
    )
    tile_above_px: int = Field(
        1024,
        ge=64,
        description="Longest side of an image that is purified in one piece; a longer one runs in "
        "overlapping tiles, which take turns with other images.",
    )
    prompts: Path = Field(SHIPPED_TEMPLATES, description="JSON file of the prompt templates.")
    prompt: PromptSource = Field(
        PromptSource.TEMPLATE,
        description="Defensive prompt beside questions about images: template; generator, written "
        "for each question by a language model; or off for none.",
    )
    prompt_generator: str | None = Field(
        None, description="Directory of a generator's adapter; CODEFEND_PROMPT=generator needs it."
    )
    prompt_generator_base: str | None = Field(
        None, description="Directory or hub id of the model that it adapts; none: what it names."
    )
    prompt_timeout_s: float = Field(
        1.0, gt=0, description="Time to write a prompt; what is late is replaced by the template."
    )
    prompt_place: PromptPlace = Field(
        PromptPlace.TURN,
        description="Where it goes in a conversation: turn, around what the user says of an "
        "image; system, behind the system prompt.",
    )
    purifier: str = Field(
        str(WEIGHTS / "purifier"),
        description="Directory or hub id of a purifier, or of Stable Diffusion to put adapters on.",
    )
    purifier_adapters: str | None = Field(
        None, description="LoRA adapters for a latent purifier: directory or hub id."
    )
    detector: str = Field(
        str(WEIGHTS / "detector"),
        description="Directory or hub id of the detector; none turns suspicion off.",
    )
    devices: Annotated[tuple[str, ...], NoDecode] = Field(
        ("auto",), description="Comma-separated devices, one worker each: auto, cpu, cuda:0, ..."
    )
    cpu_threads: int | None = Field(
        None,
        ge=1,
        description="Threads of a worker on a CPU; none: its share of the cores.",
    )
    backend: Backend = Field(
        Backend.AUTO,
        description="What runs the purifier: eager is torch; graphs is torch with captured CUDA "
        "graphs; auto takes those on an NVIDIA GPU and OpenVINO on a CPU, where it is installed "
        "and knows the network, else torch.",
    )
    cpu_dtype: CpuDtype = Field(
        CpuDtype.AUTO,
        description="Precision of the purifier on a CPU: int8 needs OpenVINO and measured ranges "
        "beside the weights; auto takes it where the processor has VNNI, else float32.",
    )
    gpu_dtype: GpuDtype = Field(
        GpuDtype.FLOAT16,
        description="Precision of the purifier on a GPU; bfloat16 for weights whose values are too "
        "large for float16.",
    )
    gpu_graph_memory: float = Field(
        0.25,
        ge=0,
        le=0.9,
        description="Share of a GPU's memory that captured graphs may take. Shapes that do not fit "
        "run eagerly; 0 captures none.",
    )
    engine: str = Field(
        "codefend.service.purify.backends:load_engine",
        description="Import path of the function that loads the purifying engine.",
    )
    worker_start_timeout_s: float = Field(
        300.0, gt=0, description="Time for a worker to load its model and warm up."
    )
    worker_silence_s: float = Field(
        15.0,
        ge=2,
        description="Time without a worker's heartbeat; after it, the worker is replaced.",
    )
    batch_timeout_s: float = Field(
        120.0, gt=0, description="Longest time for a batch; after it, the worker is replaced."
    )
    batch_timeout_floor_s: float = Field(
        15.0,
        gt=0,
        description="Shortest such time; between the two it is ten times what such batches take.",
    )

    cache_bytes: int = Field(
        256 * MEBIBYTE, ge=0, description="Memory for the cache of purified images; 0 turns it off."
    )
    cache_lifetime_s: float = Field(
        600.0,
        gt=0,
        description="Time for which the same bytes of the same key get the same purified image.",
    )

    # forward
    upstream_url: str | None = Field(
        None, description="Base URL of an OpenAI-style API (.../v1); with none, the embedded model."
    )
    upstream_key: SecretStr | None = Field(None, description="API key of the upstream.")
    upstream_model: str | None = Field(None, description="Model name; a request's own wins.")
    upstream_pool_timeout_s: float = Field(5.0, gt=0, description="Time for a free connection.")
    upstream_connect_timeout_s: float = Field(5.0, gt=0, description="Time to connect.")
    upstream_write_timeout_s: float = Field(30.0, gt=0, description="Time to send.")
    upstream_first_byte_timeout_s: float = Field(
        60.0, gt=0, description="Time for an answer to begin; all of it, where it does not stream."
    )
    upstream_read_timeout_s: float = Field(60.0, gt=0, description="Time between bytes.")
    upstream_stream_timeout_s: float = Field(
        600.0, gt=0, description="Time for a streaming answer; once begun it has no other deadline."
    )
    upstream_max_connections: int = Field(64, ge=1, description="Connections at once.")
    upstream_keepalive_s: float = Field(
        4.0, ge=0, description="Time an unused connection is kept; set it below the upstream's own."
    )
    upstream_retries: int = Field(
        1, ge=0, le=10, description="Times a request is sent again that certainly has not arrived."
    )
    upstream_breaker_failures: int = Field(
        5, ge=0, description="Failures that open the circuit breaker; 0 turns it off."
    )
    upstream_breaker_window_s: float = Field(60.0, gt=0, description="How long they count.")
    upstream_breaker_pause_s: float = Field(
        5.0, gt=0, description="Time to the first trial; doubles as trials fail."
    )
    upstream_breaker_max_pause_s: float = Field(60.0, gt=0, description="Longest such time.")
    upstream_breaker_trials: int = Field(
        2, ge=1, description="Trials that must succeed before the breaker closes."
    )
    max_state_ids: int = Field(
        50_000,
        ge=0,
        description="Ids of answers remembered for each key, so that its requests may refer to "
        "them (previous_response_id); 0 remembers none.",
    )
    models_lifetime_s: float = Field(
        5.0, ge=0, description="How long GET /v1/models answers with the same list."
    )
    mllm: str = Field(str(WEIGHTS / "mllm"), description="Directory or hub id of the embedded one.")
    max_answer_tokens: int = Field(8192, ge=1, description="Most tokens a request may ask for.")
    max_choices: int = Field(8, ge=1, description="Most answers (n) a request may ask for.")
    max_answer_bytes: int = Field(16 * MEBIBYTE, ge=1024, description="Longest answer taken.")
    max_stream_bytes: int = Field(
        256 * MEBIBYTE, ge=1024, description="Longest streaming answer of the upstream."
    )

    # respond
    drain_timeout_s: float = Field(60.0, ge=0, description="Time for accepted requests to finish.")
    drain_delay_s: float = Field(
        0.0, ge=0, description="Time to keep listening, unready, for balancers to notice."
    )
    otlp_endpoint: str | None = Field(
        None, description="Where traces go: an OTLP collector's .../v1/traces; with none, nowhere."
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Logging.")

    @property
    def has_keys(self) -> bool:
        """Whether requests have to bring a key."""
        return bool(self.api_keys or self.api_keys_file)

    @property
    def shows_page(self) -> bool:
        """Whether there is a page at `/`."""
        return not self.has_keys if self.page is None else self.page

    @property
    def tiling(self) -> Tiling:
        """How large images are cut."""
        return Tiling(self.tile_above_px)

    @property
    def detector_source(self) -> str | None:
        """Where the detector is; None for none."""
        return None if self.detector == "none" else self.detector

    @property
    def policy(self) -> Policy:
        """What holds for every key that sets nothing else."""
        return Policy(
            mode=self.mode,
            on_purify_failure=self.on_purify_failure,
            on_flagged=self.on_flagged,
            disclose=self.disclose,
            quarantine=self.quarantine,
            strength=self.strength,
            max_requests=self.max_requests_per_key,
            max_requests_per_minute=self.max_requests_per_minute,
        )

    @field_validator(
        "api_keys",
        "devices",
        "allowed_fields",
        "upstream_reads_text_images",
        "cors_origins",
        mode="before",
    )
    @classmethod
    def _split_on_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("allowed_fields")
    @classmethod
    def _has_no_indices(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        for place in places:
            if "[" in place or any(not name for name in place.split(".")):
                msg = f"{place!r} is no place: names and dots alone, as in messages.content.foo"
                raise ValueError(msg)
        return places

    @field_validator("api_keys", mode="before")
    @classmethod
    def _names_a_key(cls, keys: object) -> object:
        if isinstance(keys, str) and not keys.strip(", "):
            msg = "it is set, and holds no key"
            raise ValueError(msg)
        return keys

    @field_validator("api_keys")
    @classmethod
    def _keep_hashes_only(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, start=1):
            check_key(key.get_secret_value(), f"key {number}")
        return tuple(SecretStr(hash_key(key.get_secret_value())) for key in keys)

    @field_validator("api_keys_file")
    @classmethod
    def _can_be_read(cls, file: Path | None) -> Path | None:
        if file is not None:
            read_keys(file)
        return file

    @field_validator("prompts")
    @classmethod
    def _holds_templates(cls, file: Path) -> Path:
        try:
            read_templates(file)
        except OSError as error:
            msg = f"{file} cannot be read: {error.strerror}"
            raise ValueError(msg) from error
        return file

    @model_validator(mode="after")
    def _keyless_means_loopback(self) -> Self:
        if not self.has_keys and not is_loopback(self.host):
            msg = (
                f"refusing to bind {self.host} without an API key: set CODEFEND_API_KEYS, "
                "or bind a loopback address such as 127.0.0.1"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _keyless_is_not_for_every_page(self) -> Self:
        if "*" in self.cors_origins and not self.has_keys:
            msg = (
                "CODEFEND_CORS_ORIGINS=* without an API key would let every web page use this "
                "service: set CODEFEND_API_KEYS, or list the origins"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _a_whole_conversation_fits_the_queue(self) -> Self:
        if self.max_images > self.max_queue:
            msg = (
                "CODEFEND_MAX_IMAGES is above CODEFEND_MAX_QUEUE: "
                "a conversation with so many images could never be served"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _a_largest_request_fits_the_memory(self) -> Self:
        # Twice a body, as it is received in pieces, and two pictures of three bytes a pixel.
        largest = 2 * self.max_body_bytes + 6 * self.max_pixels
        if self.max_memory_bytes < largest:
            msg = (
                f"CODEFEND_MAX_MEMORY_BYTES is below {largest}, which one request may take: raise "
                "it, or lower CODEFEND_MAX_PIXELS or CODEFEND_MAX_BODY_BYTES"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _a_quarantine_has_its_place(self) -> Self:
        if self.quarantine_directory is None or self.quarantine_key is None:
            check_nothing_is_kept(self.quarantine, self.api_keys_file)
        return self

    @model_validator(mode="after")
    def _the_backend_fits(self) -> Self:
        check_backend(self.backend, self.devices)
        check_cpu_dtype(self.cpu_dtype, self.backend)
        return self

    @model_validator(mode="after")
    def _a_generator_has_its_adapter(self) -> Self:
        if self.prompt is not PromptSource.GENERATOR:
            return self
        if self.prompt_generator is None or not (Path(self.prompt_generator) / GENERATOR).is_file():
            msg = (
                "CODEFEND_PROMPT=generator needs CODEFEND_PROMPT_GENERATOR, a directory that "
                "codefend-lab prompt-generator wrote; or set template"
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
