"""Asks the upstream what it serves: at the start, until all is right, and when it seems to change.

A wrong address, key or model would else show with the first question, and look like a fault of the
question. Nothing is asked that costs anything: the list of models, and `{}` on the path of every
protocol, which no server takes for a question. The breaker learns nothing of it.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from codefend.service.errors import ProtocolNotServed
from codefend.service.forward.exchange import Arrival, headers_of, send_request
from codefend.service.forward.failures import UpstreamFailure
from codefend.service.forward.refusals import Refusal, lacks_path, read_refusal
from codefend.service.protocols.base import Protocol, all_protocols
from codefend.service.settings import Settings
from codefend.service.tracing import passed_on_headers

__all__ = ["COMPLETIONS", "MODELS", "PROBE_ID", "UpstreamProbe", "UpstreamState"]

logger = logging.getLogger(__name__)

# By this upstreams tell probes from questions.
PROBE_ID = "codefend-probe"
MODELS, COMPLETIONS = "models", "chat/completions"
VERSION = "v1"
TIMEOUT_S = 10.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# They take any name, and list another.
_TAKE_ANY_NAME = frozenset({"llamacpp", "sglang"})

# LiteLLM's proxy without a database says so of every key but its own, with a 400.
_UNKNOWN_KEY_OF_LITELLM = "No connected db."

_NO_ANSWER = "The upstream does not answer at present."
_NO_KEY = "The upstream wants a key: set CODEFEND_UPSTREAM_KEY."
_WRONG_KEY = "The upstream does not take the key in CODEFEND_UPSTREAM_KEY."
_WRONG_PATH = "The upstream serves nothing at the path of CODEFEND_UPSTREAM_URL"
_WRONG_MODEL = "The upstream does not list the model that CODEFEND_UPSTREAM_MODEL names."


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """What the last probe found.

    Attributes:
        wrong: What is certainly set wrongly, for the operator; None for nothing.
        is_silent: Whether no answer came at all: its own concern.
        lacking: Paths of protocols that it does not serve, below its base URL.
    """

    wrong: str | None = None
    is_silent: bool = False
    lacking: frozenset[str] = frozenset()

    @property
    def sentence(self) -> str | None:
        """What a probe of readiness is told beside its status; no address, no name."""
        return self.wrong or (_NO_ANSWER if self.is_silent else None)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Of one question; without a status where none came."""

    status: int | None = None
    content: bytes = b""
    refusal: Refusal = field(default_factory=Refusal)

    @property
    def is_told(self) -> bool:
        """Whether the upstream itself answered, as far as that can be told."""
        return self.status is not None and (self.status < 500 or self.status == 501)

    @property
    def wants_another_key(self) -> bool:
        is_refused = self.status in {401, 403} and self.refusal.code is None
        return is_refused or self.refusal.message == _UNKNOWN_KEY_OF_LITELLM

    @property
    def is_elsewhere(self) -> bool:
        return self.status is not None and lacks_path(self.status, self.refusal)


class UpstreamProbe:
    """Keeps what is known of the upstream; all methods belong to the event loop.

    Attributes:
        state: What is known; before the first answer, that all is well.
    """

    def __init__(self, client: httpx.AsyncClient, settings: Settings) -> None:
        """Asks nothing yet.

        Args:
            client: With the base URL of the API.
            settings: Key, model, and how long an answer may be.
        """
        self.state = UpstreamState()
        self._client = client
        self._settings = settings
        self._doubt = asyncio.Event()
        self._is_known = self._was_right = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, in the background; the embedded model needs none."""
        if self._settings.upstream_url is not None:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Asks no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def doubt(self) -> None:
        """Says that the upstream answered as if what is known of it held no longer."""
        self._doubt.set()

    def check(self, path: str) -> None:
        """Refuses a path of ours whose protocol the upstream lacks.

        Raises:
            ProtocolNotServed: It lacks it; the message names what it serves.
        """
        protocols = all_protocols()
        # What is no protocol's asks its questions as chats.
        needed = protocols[path].upstream_path if path in protocols else COMPLETIONS
        if needed not in self.state.lacking:
            return
        served = [p.path for p in protocols.values() if p.upstream_path not in self.state.lacking]
        msg = f"The model behind this service does not serve {path}. Use {' or '.join(served)}."
        raise ProtocolNotServed(msg)

    async def _run(self) -> None:
        passed_on_headers.set({"X-Request-ID": PROBE_ID})
        pause_s = FIRST_PAUSE_S
        while True:
            state = await self._look()
            is_news = state != self.state or not self._is_known
            pause_s = FIRST_PAUSE_S if is_news else min(2 * pause_s, LONGEST_PAUSE_S)
            if is_news:
                self._say(state)
            self.state, self._is_known = state, True
            self._was_right = self._was_right or state.sentence is None
            # However many requests raise doubts meanwhile, and however soon.
            await asyncio.sleep(FIRST_PAUSE_S)
            self._doubt.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if state == UpstreamState() else pause_s):
                    await self._doubt.wait()

    def _say(self, state: UpstreamState) -> None:
        fields = {"upstream": state.sentence, "not_served": sorted(state.lacking)}
        if state.wrong is not None:
            logger.error("the upstream is set wrongly: %s", state.wrong, extra={"fields": fields})
        elif state.is_silent:
            logger.warning("the upstream does not answer", extra={"fields": fields})
        else:
            logger.info("the upstream answers", extra={"fields": fields})

    async def _look(self) -> UpstreamState:
        models = await self._ask(self._url(MODELS))
        answers = {
            protocol.upstream_path: await self._ask(self._url(protocol.upstream_path), protocol)
            for protocol in all_protocols().values()
        }
        found = {path: answer for path, answer in answers.items() if not answer.is_elsewhere}
        if not any(answer.is_told for answer in (models, *answers.values())):
            return UpstreamState(is_silent=True)
        if all(answer.wants_another_key for answer in found.values() or [models]):
            return UpstreamState(self._wrong_key())
        if not found:
            # An address that was right once is not wrong now: something in between says so.
            return UpstreamState(is_silent=True) if self._was_right else await self._wrong_path()
        wrong = _WRONG_MODEL if self._is_model_missing(models) else None
        return UpstreamState(wrong, lacking=frozenset(answers.keys() - found.keys()))

    def _wrong_key(self) -> str:
        return _NO_KEY if self._settings.upstream_key is None else _WRONG_KEY

    async def _wrong_path(self) -> UpstreamState:
        """Looks where the API would be, had its address another end."""
        base = self._settings.upstream_url or ""
        bare = base.rstrip("/")
        ends = [path for path in (MODELS, *_paths()) if bare.endswith(f"/{path}")]
        candidates = {f"{bare}/{VERSION}": f"; with /{VERSION} at its end it would"}
        for end in ends:
            candidates[bare.removesuffix(f"/{end}")] = f"; without /{end} at its end it would"
        for candidate, hint in candidates.items():
            for path, protocol in (*_paths().items(), (MODELS, None)):
                answer = await self._ask(httpx.URL(f"{candidate}/{path}"), protocol)
                if answer.is_told and not answer.is_elsewhere:
                    return UpstreamState(f"{_WRONG_PATH}{hint}.")
        return UpstreamState(f"{_WRONG_PATH}.")

    def _is_model_missing(self, models: _Answer) -> bool:
        """Whether the model that is set is certainly not one of the upstream's.

        Some servers take names that they do not list: with a tag (Ollama, OpenRouter), by a pattern
        (LiteLLM), or any.
        """
        name = self._settings.upstream_model
        if name is None or models.status != 200:
            return False
        try:
            document = json.loads(models.content)
            ids = [str(entry["id"]) for entry in document["data"]]
            owners = {str(entry.get("owned_by")) for entry in document["data"]}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False
        is_partial = document.get("has_more") or owners & _TAKE_ANY_NAME
        bare = name.partition(":")[0]
        is_known = any(known.partition(":")[0] == bare or "*" in known for known in ids)
        return bool(ids) and not is_partial and not is_known

    def _url(self, path: str) -> httpx.URL:
        return self._client.base_url.join(path)

    async def _ask(self, url: httpx.URL, protocol: Protocol | None = None) -> _Answer:
        """Asks for a list, or posts `{}` to a protocol's path; never raises."""
        settings = self._settings
        request = self._client.build_request(
            "GET" if protocol is None else "POST",
            url,
            content=None if protocol is None else b"{}",
            headers=headers_of(protocol, settings),
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await send_request(self._client, request, TIMEOUT_S)
                arrival = Arrival(response, settings.max_answer_bytes, TIMEOUT_S)
                if protocol is None and response.is_success:
                    return _Answer(response.status_code, await arrival.read())
                status, content = response.status_code, await arrival.finish()
        except (UpstreamFailure, TimeoutError):
            return _Answer()
        return _Answer(status, content, read_refusal(status, content))


def _paths() -> Mapping[str, Protocol]:
    return {protocol.upstream_path: protocol for protocol in all_protocols().values()}
