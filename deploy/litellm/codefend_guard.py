"""CoDefend for LiteLLM's proxy: no model gets an image of a request that was not purified.

Put this file beside the proxy's `config.yaml`, and into that `litellm_settings: callbacks:
codefend_guard.guard`. LiteLLM calls `CodefendGuard.async_pre_call_hook` before it asks a model. Its
images go to `POST /v1/guardrail` of CoDefend, and what comes back takes their places. Everything
else that could be an image, or lead to one, is refused with 400; and where the guard is down, slow
or talks nonsense, so is every request with an image, with 503.

The environment says where the guard is: `CODEFEND_GUARD_URL` (http://127.0.0.1:8000),
`CODEFEND_GUARD_KEY` (none), `CODEFEND_GUARD_TIMEOUT_S` (60), and `CODEFEND_GUARD_ALLOW`: types of
objects and names of fields, with commas between them, that pass unread. The routes of LiteLLM that
call no hook are closed by `general_settings: allowed_routes`: see `docs/gateways.md`.
"""

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpx
from litellm.integrations.custom_logger import CustomLogger

__all__ = ["CodefendGuard", "ImageReader", "Refused", "guard"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# LiteLLM's own objects in `data`: it writes them over whatever a client sent, and no model gets
# them. In its metadata a client's texts stand beside LiteLLM's objects.
OWN_FIELDS = {"litellm_logging_obj", "proxy_server_request", "secret_fields"}
METADATA = {"litellm_metadata", "metadata"}
# What a model reads as text, whatever stands in it.
TEXTS = _names(
    """content description documents guided_choice guided_grammar guided_regex input
    instructions output prompt query reasoning reasoning_content refusal stop stop_sequences
    suffix summary system text thinking title"""
)
# JSON of the caller's own making, which a model reads as text at most.
FREE_JSON = _names(
    """annotations arguments citations context_management guided_json input_schema json_schema
    output_schema parameters response_schema schema structured_outputs"""
)
# What whoever made it reads alone, and as a string alone.
OPAQUE = {"call_id", "encrypted_content", "id", "signature", "thought_signature", "tool_call_id"}
# What leads to something that never came by here. The rest would be refused for its values.
CLOSED = re.compile(
    r"(?:^|[_.-])(?:attachments?|audios?|base64|bytes|containers?|embeds|files?|frames?|images?|imgs?"
    r"|inline_?data|media|mm|multi_?modal|photos?|pictures?|pixels?|uuids?|videos?)(?:$|[_.-]|url)"
    r"|^(?:content_hash|conversation|previous_response_id|prompt_(?:id|label|version))$",
    re.IGNORECASE,
)
IMAGES = _names("image image_url input_image")
# The types that objects may have: of parts, items, tools and options.
TYPES = IMAGES | _names(
    """input_text output_text reasoning reasoning.encrypted reasoning.summary reasoning.text
    reasoning_text redacted_thinking refusal summary_text text thinking tool_reference
    custom_tool_call custom_tool_call_output function_call function_call_output message tool_result
    tool_use
    adaptive allowed_tools any approximate auto content custom disabled enabled ephemeral function
    grammar json_object json_schema none structural_tag tool url_citation"""
)
# Whoever opens such a session sends what no hook sees.
SESSIONS = _names(
    """_arealtime _aresponses_websocket acreate_realtime_client_secret
    acreate_realtime_transcription_session arealtime_calls"""
)
# Paths whose texts are never taken for addresses of images; others embed, rank or edit what is
# there, and some upstreams load it.
CONVERSATIONS = {"acompletion", "anthropic_messages", "aresponses", "completion", "responses"}

LONGEST_PLAIN = 256
_URL = re.compile(
    r":\s*[\\/]\s*[\\/]|^\s*[\\/]\s*[\\/]|\b(?:d\s*a\s*t\s*a|file|blob)\s*:", re.IGNORECASE
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{81}|[A-Za-z0-9_-]{81}")
_DATA = re.compile(r"\s*data:(?:[\w.+-]+/[\w.+*-]+)?(?:;[\w.+=-]+)*,", re.ASCII | re.IGNORECASE)
_DATA_LINK = re.compile(r"\]\s*+\(\s*+<?\s*+data:", re.IGNORECASE)
_WHOLE = re.compile(
    r"\s*(?:\w[\w+.-]*:[\\/]\S*|data:\S*|[\\/]{2}\S*|[\w+/-]{81,}={0,2})\s*",
    re.ASCII | re.IGNORECASE,
)
# What parsers of URLs pass over.
_PASSED_OVER = str.maketrans("", "", "\t\r\n")
_ADVICE = "Send images as image_url, input_image or image parts, each with its bytes in base64."


class Refused(Exception):
    """A refusal; LiteLLM answers with its status and message.

    Attributes:
        status_code: 400 where the request is at fault, 503 where the guard is.
        message: What a stranger may read.
    """

    def __init__(self, message: str, status_code: int = 400) -> None:
        """Takes what to answer."""
        super().__init__(message)
        self.message = message
        self.status_code = status_code


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where one image stands: `holder[name]` is its `data:` URL, or its base64 in a source."""

    holder: dict[str, Any]
    name: str
    at: str
    is_source: bool = False

    @property
    def url(self) -> str:
        """The image as a `data:` URL; what it is called there is not believed."""
        value: str = self.holder[self.name]
        return f"data:image/png;base64,{value}" if self.is_source else value

    def put(self, url: str) -> None:
        """Puts a `data:` URL in its place."""
        if self.is_source:
            header, _, url = url.partition(",")
            self.holder["media_type"] = header.removeprefix("data:").partition(";")[0]
        self.holder[self.name] = url


@dataclass(slots=True)
class ImageReader:
    """Reads a request: finds its images, and refuses what could be one and is not understood.

    Attributes:
        allowed: Types and names that pass unread.
        is_conversation: Whether texts are read by a model, and by nothing else.
        images: What was found, in its order.
    """

    allowed: frozenset[str] = frozenset()
    is_conversation: bool = True
    images: list[ImagePlace] = field(default_factory=list)

    def read(self, data: dict[str, Any]) -> list[ImagePlace]:
        """Reads all that a client sent.

        Args:
            data: As LiteLLM hands it to its hooks.

        Returns:
            The images.

        Raises:
            Refused: Something is not understood.
        """
        try:
            for name, value in data.items():
                if name in METADATA:
                    self._read_free(value, name)
                elif name not in OWN_FIELDS:
                    self._read_field(data, name, name)
        except RecursionError as error:
            msg = "The request is nested too deeply."
            raise Refused(msg) from error
        return self.images

    def _read_field(self, holder: dict[str, Any], name: Any, at: str) -> None:
        value = holder[name]
        if not isinstance(name, str) or not _is_plain(name):
            msg = f"A field's name in {at[:64]} is too long, a URL or base64."
            raise Refused(msg)
        if value is None or isinstance(value, bool | int | float) or name in self.allowed:
            return
        if name == "image_url":
            self._read_image_url(holder, at)
        elif name == "source":
            self._read_source(value, at)
        elif value and (CLOSED.search(name) or (name == "prompt" and isinstance(value, dict))):
            self._refuse(at, "is closed: it could bring in an image that nobody has purified", name)
        elif name in FREE_JSON or (name == "input" and holder.get("type") == "tool_use"):
            self._read_free(value, at)
        elif name in OPAQUE and isinstance(value, str):
            self._read_opaque(value, at)
        else:
            self._read_value(value, name, at)

    def _read_value(self, value: Any, name: str, at: str) -> None:
        if isinstance(value, dict):
            self._read_object(value, at)
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                self._read_value(entry, name, f"{at}[{index}]")
        elif isinstance(value, str) and name in TEXTS:
            self._read_text(value, name, at)
        elif isinstance(value, str):
            self._read_plain(value, at)
        elif not (value is None or isinstance(value, bool | int | float)):
            self._refuse(at, "is a file")

    def _read_object(self, value: dict[str, Any], at: str) -> None:
        kind = value.get("type")
        if isinstance(kind, str) and kind in self.allowed:
            return
        if kind is not None and not (isinstance(kind, str) and kind in TYPES):
            self._refuse(at, f"is of the type {str(kind)[:64]!r}, which is not taken", kind)
        is_opaque = kind in {"redacted_thinking", "reasoning.encrypted"}
        for name, entry in list(value.items()):
            if is_opaque and name == "data" and isinstance(entry, str):
                self._read_opaque(entry, f"{at}.data")
            else:
                self._read_field(value, name, f"{at}.{name}")

    def _read_image_url(self, holder: dict[str, Any], at: str) -> None:
        value, name = holder["image_url"], "image_url"
        if isinstance(value, dict):
            for other in value.keys() - {"url"}:
                self._read_field(value, other, f"{at}.{other}")
            holder, name, value = value, "url", value.get("url")
        if not isinstance(value, str):
            self._refuse(at, "is no data: URL")
        self.images.append(ImagePlace(holder, name, at))

    def _read_source(self, value: Any, at: str) -> None:
        """Reads the source of an image, as Anthropic's protocol has it."""
        if not isinstance(value, dict):
            self._refuse(at, "is no object")
        if value.get("type") != "base64" or value.keys() != {"type", "media_type", "data"}:
            self._refuse(at, "is no source of the type base64 with a media_type and data alone")
        if not (isinstance(value["data"], str) and str(value["media_type"]).startswith("image/")):
            self._refuse(at, "is no image")
        self.images.append(ImagePlace(value, "data", at, is_source=True))

    def _read_free(self, value: Any, at: str) -> None:
        if isinstance(value, str):
            self._refuse_data(value, at)
        elif isinstance(value, list):
            for entry in value:
                self._read_free(entry, at)
        elif isinstance(value, dict):
            kind = value.get("type")
            if isinstance(kind, str) and kind in IMAGES and value.keys() & {"image_url", "source"}:
                self._refuse(at, "holds an image where none belongs")
            for name, entry in value.items():
                self._read_free(name, at)
                self._read_free(entry, at)

    def _read_text(self, text: str, name: str, at: str) -> None:
        self._refuse_data(text, at)
        is_loaded = name == "documents" or not self.is_conversation
        if is_loaded and _WHOLE.fullmatch(text.translate(_PASSED_OVER)):
            self._refuse(at, "is a URL or base64, where text is taken")

    def _refuse_data(self, text: str, at: str) -> None:
        if _DATA.match(text) or ("![" in text and _DATA_LINK.search(text)):
            self._refuse(at, "holds an image in a text")

    def _read_opaque(self, text: str, at: str) -> None:
        if _URL.search(text):
            self._refuse(at, "holds a URL")

    def _read_plain(self, text: str, at: str) -> None:
        if not _is_plain(text):
            self._refuse(at, f"is longer than {LONGEST_PLAIN} characters, a URL or base64")

    def _refuse(self, at: str, why: str, opened_by: str | None = None) -> NoReturn:
        msg = f"{at[:LONGEST_PLAIN]} {why}. {_ADVICE}"
        if opened_by is not None:
            msg += f" The operator may set CODEFEND_GUARD_ALLOW={str(opened_by)[:64]}."
        raise Refused(msg)


def _is_plain(text: str) -> bool:
    return len(text) <= LONGEST_PLAIN and not (_URL.search(text) or _BASE64.search(text))


class CodefendGuard(CustomLogger):
    """The callback; LiteLLM makes it once for a process."""

    # Requests inside a batch's file are shown to it, too.
    enforces_request_content = True

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Reads where the guard is.

        Args:
            environment: Variable by name.

        Raises:
            ValueError: A variable has a value that is not allowed; LiteLLM does not start then.
        """
        super().__init__()
        url = environment.get("CODEFEND_GUARD_URL") or "http://127.0.0.1:8000"
        self._timeout_s = float(environment.get("CODEFEND_GUARD_TIMEOUT_S") or 60)
        if not (httpx.URL(url).host and url.startswith(("http://", "https://"))):
            msg = "CODEFEND_GUARD_URL is no address such as http://127.0.0.1:8000"
            raise ValueError(msg)
        if not 0 < self._timeout_s < float("inf"):
            msg = "CODEFEND_GUARD_TIMEOUT_S is no number of seconds"
            raise ValueError(msg)
        self._url = f"{url.rstrip('/').removesuffix('/v1')}/v1/guardrail"
        key = environment.get("CODEFEND_GUARD_KEY")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        allowed = environment.get("CODEFEND_GUARD_ALLOW", "").split(",")
        self._allowed = frozenset(name.strip() for name in allowed if name.strip())
        self._client: httpx.AsyncClient | None = None

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Puts purified images into a request.

        Args:
            user_api_key_dict: Whose it is; not looked at.
            cache: LiteLLM's; not used.
            data: The request, changed in place.
            call_type: What LiteLLM is to do.

        Returns:
            The request.

        Raises:
            Refused: Something is not understood, an image is refused, or there is no guard.
        """
        if call_type in SESSIONS and call_type not in self._allowed:
            msg = "Sessions are closed: the image guard cannot see what is sent within them."
            raise Refused(msg)
        reader = ImageReader(self._allowed, call_type in CONVERSATIONS)
        images = reader.read(data)
        if images:
            urls = await self._purify(images)
            for image, url in zip(images, urls, strict=True):
                image.put(url)
        return data

    async def _purify(self, images: list[ImagePlace]) -> list[str]:
        """Asks the guard; whatever it says that is not understood is a refusal.

        Raises:
            Refused: There is nothing that may take the images' places.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._ask([image.url for image in images])
            answer = response.json()
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            msg = "The image guard does not answer, so that no image can pass. Try again later."
            raise Refused(msg, 503) from error
        if response.status_code in {400, 413, 415, 422}:
            raise Refused(_explain(answer, images))
        urls = _read_answer(answer, len(images)) if response.status_code == 200 else None
        if urls is None:
            msg = "The image guard cannot serve, so that no image can pass. Try again later."
            raise Refused(msg, 503)
        return urls

    async def _ask(self, urls: list[str]) -> httpx.Response:
        if self._client is None:
            # What is set about proxies is for other hosts.
            self._client = httpx.AsyncClient(timeout=self._timeout_s, trust_env=False)
        return await self._client.post(self._url, json={"images": urls}, headers=self._headers)


def _read_answer(answer: Any, num_images: int) -> list[str] | None:
    """What shall take the images' places; None where the guard says nothing of the kind.

    Raises:
        Refused: The guard refuses them.
    """
    if not isinstance(answer, dict):
        return None
    verdict, urls = answer.get("verdict"), answer.get("images")
    if verdict == "deny":
        reason = answer.get("reason")
        raise Refused(reason if isinstance(reason, str) else "The image guard refused an image.")
    is_sound = isinstance(urls, list) and len(urls) == num_images
    if verdict not in {"modify", "allow"} or not is_sound:
        return None
    are_images = all(isinstance(url, str) and url.startswith("data:image/") for url in urls)
    return urls if are_images else None


def _explain(answer: Any, images: list[ImagePlace]) -> str:
    """What the guard says of an image, with its place in the request in place of its number."""
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if not isinstance(message, str):
        return "The image guard refused an image."
    found = re.fullmatch(r"images\[(\d{1,6})\]", str(error.get("param"))) if error else None
    if found is None or int(found[1]) >= len(images):
        return message
    at = images[int(found[1])].at
    return f"{at}: {message.replace(found[0], at)}"


guard = CodefendGuard()
