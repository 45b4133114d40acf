"""What a protocol is described by, and how its answers and events are read.

A protocol is a module of this package with `PROTOCOLS`: its path, the table of its fields, where
the user's question stands, what its answers and streams look like, and how it tells an error.
Whatever leads a request through the stages reads these descriptions and knows no protocol by name.
"""

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from codefend.service import protocols
from codefend.service.errors import CodefendError
from codefend.service.protocols.fields import Place

if TYPE_CHECKING:
    from starlette.datastructures import Headers

__all__ = [
    "EventReader",
    "EventRole",
    "Protocol",
    "add_text",
    "all_protocols",
    "openai_error",
    "openai_error_event",
    "read_event",
    "read_object",
]

# JSON costs by its values, not by its bytes: a chunk of 4 MiB may hold a picture, or a million
# lists that take the event loop for most of a second. So many are read in some 30 ms.
MAX_EVENT_VALUES = 1 << 17


class EventRole(Enum):
    """What an event of a stream means for whoever passes it on."""

    PART = auto()  # passed on at once
    ASIDE = auto()  # passed on at once, or behind what is held
    MAY_BE_LAST = auto()  # held until the next one is there
    LAST = auto()  # held, too; and the answer is whole with it
    DONE = auto()  # nothing that follows is read
    ERROR = auto()


class EventReader:
    """Reads the events of one stream, in their order; protocols derive theirs.

    Attributes:
        ids: What the answer hands out, for requests to come to refer to.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []

    def read(self, payload: bytes) -> EventRole:
        """Says what an event means.

        Args:
            payload: Its data.

        Raises:
            ValueError: It is none of this protocol's; or LookupError, TypeError, RecursionError.
        """
        raise NotImplementedError

    def own_event(self) -> dict[str, Any] | None:
        """An event to tell in what the defence did, where none was held; None where one must be."""
        return None


def openai_error(error: CodefendError, _: str) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return error.body()


def openai_error_event(error: CodefendError, _: str) -> bytes:
    """The same within a stream."""
    return f"data: {json.dumps(error.body())}\n\n".encode()


def _no_ids(_: Any) -> list[str]:
    return []


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol, or one path of it.

    Attributes:
        name: In settings, logs and metrics.
        path: Here; the upstream has the same below its base URL.
        description: For its documentation.
        table: Its fields.
        conversation: The field that holds the conversation, and has to be there.
        conversation_schema: What OpenAPI says of that field.
        image_part: How an image is sent, for refusals.
        token_limits: Fields that say how long an answer may be.
        token_shares: Fields, and members of them, that say how much of an answer may be thought.
        choice_limits: Fields that say how many answers there may be.
        instruct: Puts a text behind the request's own system prompt, or makes one of it.
        text_types: Types of the parts that hold what a user says, under the name `text`.
        answer_fields: Top-level fields that every answer has, and their types.
        read_answer: Reads a whole answer; raises ValueError and its kin for what is none.
        make_reader: Makes the reader of a stream's events; None where the protocol has no streams.
        ids_of: What an answer, as `read_answer` read it, hands out for requests to refer to.
        report_in: The member of a stream's last event that the report stands in; None: the event.
        error_fields: What errors have beside `error`, and the types of that.
        error_body: An error as its clients read it, from it and the request's id.
        error_event: The same within a stream.
        key_header: Where else than in `Authorization: Bearer` the upstream reads its key.
        passed_headers: Headers of a request, in lower case, that go to the upstream, and for each
            what is kept of its value; where that is nothing, it is left out.
        default_headers: What the upstream gets where the client sends no such header.
        not_below: Why no path below this one is served; empty where some are, or none is known.
    """

    name: str
    path: str
    description: str
    table: Place
    conversation: str
    conversation_schema: Mapping[str, Any]
    image_part: str
    instruct: Callable[[dict[str, Any], str], None]
    read_answer: Callable[[bytes], object]
    make_reader: Callable[[], EventReader] | None
    text_types: tuple[str, ...] = ("text",)
    answer_fields: Mapping[str, Any] = field(default_factory=dict)
    token_limits: tuple[str, ...] = ()
    token_shares: tuple[tuple[str, str], ...] = ()
    choice_limits: tuple[str, ...] = ()
    ids_of: Callable[[Any], list[str]] = _no_ids
    report_in: str | None = None
    error_fields: Mapping[str, Any] = field(default_factory=dict)
    error_body: Callable[[CodefendError, str], dict[str, Any]] = openai_error
    error_event: Callable[[CodefendError, str], bytes] = openai_error_event
    key_header: str | None = None
    passed_headers: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    default_headers: Mapping[str, str] = field(default_factory=dict)
    not_below: str = ""

    @property
    def upstream_path(self) -> str:
        """Below the upstream's base URL, which ends with the version."""
        return self.path.removeprefix("/v1/")

    def headers_for_upstream(self, headers: "Headers") -> dict[str, str]:
        """Those of a request's headers that go to the upstream; what stands apart is joined."""
        kept = {
            name: keep(", ".join(headers.getlist(name)))
            for name, keep in self.passed_headers.items()
        }
        return {name: value for name, value in kept.items() if value}


@cache
def all_protocols() -> Mapping[str, Protocol]:
    """Every protocol that is served, by its path: what the modules of this package describe."""
    found_in = pkgutil.iter_modules(protocols.__path__, f"{protocols.__name__}.")
    modules = (importlib.import_module(entry.name) for entry in found_in)
    found = (protocol for module in modules for protocol in getattr(module, "PROTOCOLS", ()))
    return {protocol.path: protocol for protocol in found}


def add_text(holder: dict[str, Any], key: str, text: str, part: dict[str, Any]) -> None:
    """Puts a text behind what stands in a field: behind a text, a list of parts, or nothing.

    Args:
        holder: What has the field.
        key: Its name.
        text: The text.
        part: The same as a part of such a list.
    """
    own = holder.get(key)
    if isinstance(own, list):
        own.append(part)
    else:
        holder[key] = f"{own}\n\n{text}" if isinstance(own, str) and own.strip() else text


def read_event(payload: bytes) -> dict[str, Any]:
    """Reads one event of a stream.

    Raises:
        ValueError: It is no JSON object, or has too many values; or RecursionError, TypeError.
    """
    if sum(map(payload.count, (b",", b"[", b"{"))) > MAX_EVENT_VALUES:
        msg = "an event with too many values"
        raise ValueError(msg)
    return read_object(payload)


def read_object(content: bytes) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: It is none; or RecursionError, TypeError.
    """
    # Decoded here, because json would also take UTF-16, into which nothing could be spliced.
    document = json.loads(content.decode(), parse_constant=_refuse_constant)
    if not isinstance(document, dict):
        msg = "no object"
        raise TypeError(msg)
    return document


def _refuse_constant(_: str) -> NoReturn:
    msg = "NaN and Infinity are no JSON"
    raise ValueError(msg)
