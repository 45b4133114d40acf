"""Takes a conversation apart, in any protocol: its images, and its bytes around them.

The service puts purified images into the gaps and forwards the rest as it is, so that it never
reads a stranger's conversation itself. Runs in the decode processes; small bodies are read where
they came in.
"""

import json
import re
import secrets
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from codefend.service.decode.walk import ImagePlace, StateReference, walk
from codefend.service.decode.wire import read_inline_image, read_json_object
from codefend.service.errors import (
    InvalidBody,
    InvalidField,
    MissingField,
    RequestRefused,
    TooManyImages,
)
from codefend.service.formats.table import sniff_format
from codefend.service.policy import Mode, UnknownFields
from codefend.service.protocols.base import Protocol
from codefend.service.protocols.fields import FieldKind, FieldRules, Findings
from codefend.service.protocols.prompting import GapKind, Placing, place_prompt

if TYPE_CHECKING:
    from codefend.service.settings import Settings

__all__ = ["Chat", "ChatImage", "ChatLimits", "field_rules", "open_chat"]

OWN_FIELD = "codefend"
# What some servers take for "as many as there may be", and their clients send by default.
UNSET_TOKENS = -1
# What is read of a question to write its prompt.
MAX_QUESTION_CHARS = 2000
_FACTS = ("has_model", "stream", "return_image", "gaps", "questions")


@dataclass(frozen=True, slots=True)
class ChatLimits:
    """What a chat may ask for.

    Attributes:
        max_images: Images in all messages together.
        max_answer_tokens: Tokens of an answer.
        max_choices: Answers to one request.
    """

    max_images: int
    max_answer_tokens: int
    max_choices: int

    @classmethod
    def of(cls, settings: "Settings") -> Self:
        """Takes the limits out of the settings."""
        return cls(settings.max_images, settings.max_answer_tokens, settings.max_choices)


@dataclass(frozen=True, slots=True)
class ChatImage:
    """The file of one image, and where it stood.

    Attributes:
        file: Its bytes.
        param: The place.
        is_source: Whether it stood in a source of Anthropic's, and has two gaps: for its type too.
    """

    file: bytes
    param: str
    is_source: bool = False


@dataclass(frozen=True, slots=True)
class Chat:
    """A request in parts.

    Attributes:
        fragments: What goes to the model, as JSON, with a gap after each but the last.
        gaps: What comes into each gap: a kind, and for prompts the number of the question.
        images: What came in the gaps; see `ChatImage.is_source`.
        has_model: Whether the request names a model.
        stream: Whether it asks for server-sent events.
        return_image: Whether the answer is to show the purified images.
        questions: What is asked of its images, each cut off; it has gaps for their prompts.
        references: Ids in it of what the upstream keeps.
        findings: What its fields would have been refused for, or were taken out for.
    """

    fragments: tuple[bytes, ...]
    gaps: tuple[str, ...]
    images: tuple[ChatImage, ...]
    has_model: bool
    stream: bool
    return_image: bool
    questions: tuple[str, ...]
    references: tuple[StateReference, ...]
    findings: Findings

    def pack(self) -> tuple[dict[str, Any], bytes]:
        """For another process: facts as JSON, and all bytes one after another."""
        files = [image.file for image in self.images]
        meta = {
            "facts": {name: getattr(self, name) for name in _FACTS},
            "params": [image.param for image in self.images],
            "sources": [image.is_source for image in self.images],
            "lengths": [len(part) for part in (*self.fragments, *files)],
            "references": [asdict(reference) for reference in self.references],
            "findings": asdict(self.findings),
        }
        return meta, b"".join((*self.fragments, *files))

    @staticmethod
    def unpack(meta: dict[str, Any], blob: bytes) -> "Chat":
        """What `pack` made.

        Raises:
            ValueError: The other process speaks nonsense.
        """
        parts, start = [], 0
        for length in meta["lengths"]:
            parts.append(blob[start : start + length])
            start += length
        params, sources = meta["params"], meta["sources"]
        facts = meta["facts"] | {name: tuple(meta["facts"][name]) for name in ("gaps", "questions")}
        num_fragments = len(facts["gaps"]) + 1
        files = parts[num_fragments:]
        images = tuple(ChatImage(*image) for image in zip(files, params, sources, strict=True))
        references = tuple(StateReference(**reference) for reference in meta["references"])
        return Chat(
            fragments=tuple(parts[:num_fragments]),
            images=images,
            references=references,
            findings=Findings(**meta["findings"]),
            **facts,
        )


def field_rules(settings: "Settings", mode: Mode) -> FieldRules:
    """Takes the rules out of the settings; only a policy that enforces refuses anything."""
    return FieldRules(
        is_enforced=mode is Mode.ENFORCE,
        drops_unknown=settings.unknown_fields is UnknownFields.DROP,
        allowed=settings.allowed_fields,
        text_images=settings.upstream_reads_text_images,
    )


def open_chat(
    body: bytes,
    protocol: Protocol,
    limits: ChatLimits,
    placing: Placing | None,
    rules: FieldRules,
) -> Chat:
    """Takes a request apart.

    Its fields pass as the protocol's table has them. Rules that refuse nothing leave in place
    what does not pass, images that are elsewhere or unreadable included.

    Args:
        body: JSON, as received.
        protocol: Whose request it is.
        limits: What it may ask for.
        placing: Where prompts are to go, if there is an image in the conversation.
        rules: What is set about its fields.

    Raises:
        InvalidBody: It is no JSON object, or holds a number that JSON cannot.
        InvalidField: A field that is understood has a value that is not allowed.
        MissingField: A field is absent.
        UnknownField: A field stands in no table.
        ClosedField: A field is closed.
        UnsupportedContent: There is something that is neither text nor an image.
        ImageInText: A text holds an image.
        TooManyImages: There are more images than are taken.
        RemoteImage: An image is a URL to somewhere else.
        InvalidImage: An image is empty.
    """
    try:
        document = read_json_object(body)
        reads_texts = bool(rules.text_images) or _may_hold_markdown(body)
        return _open(document, protocol, limits, placing, rules, reads_texts=reads_texts)
    except (RecursionError, MemoryError) as error:
        raise InvalidBody from error


def _may_hold_markdown(body: bytes) -> bool:
    """Whether `![` can be in a text of it; JSON has one other way to write each character."""
    if not json.detect_encoding(body).startswith("utf-8"):
        return True
    # One byte is found much faster than several, and a picture in base64 has neither of the two.
    if b"!" in body and b"![" in body:
        return True
    return b"\\" in body and (b"\\u0021" in body or b"\\u005" in body)


def _open(
    document: dict[str, Any],
    protocol: Protocol,
    limits: ChatLimits,
    placing: Placing | None,
    rules: FieldRules,
    *,
    reads_texts: bool,
) -> Chat:
    _check_limits(document, protocol, limits)
    return_image = _read_own_field(document)
    if not document.get("model"):
        document.pop("model", None)
    _check_conversation(document, protocol, rules)
    places, references, findings = walk(
        document, protocol.table, rules, image_part=protocol.image_part, reads_texts=reads_texts
    )
    # Counted before any of them is decoded.
    if len(places) > limits.max_images:
        msg = f"At most {limits.max_images} images are taken in one conversation."
        raise TooManyImages(msg, protocol.conversation)
    images = _read_images(places, rules, findings)
    # Nobody can know the mark before it is drawn, and so nobody can write another gap.
    mark = secrets.token_hex(16)
    questions: list[str] = []
    if images and placing is not None:
        turns = [_turn(image.param, protocol.conversation) for _, image in images]
        questions = place_prompt(document, protocol, placing, turns, partial(_gap, mark))
    for image_place, _ in images:
        image_place.put(_gap(mark, GapKind.IMAGE))
    fragments, gaps = _serialise(document, mark)
    return Chat(
        fragments=fragments,
        gaps=gaps,
        images=tuple(image for _, image in images),
        has_model="model" in document,
        stream=bool(document.get("stream")),
        return_image=return_image,
        questions=tuple(question[:MAX_QUESTION_CHARS] for question in questions),
        references=tuple(references),
        findings=findings,
    )


def _check_conversation(document: dict[str, Any], protocol: Protocol, rules: FieldRules) -> None:
    name = protocol.conversation
    if name not in document:
        msg = f"The field {name} is missing."
        raise MissingField(msg, name)
    conversation = document[name]
    may_be_text = protocol.table.fields[name].kind is FieldKind.CONTENT
    is_text = may_be_text and isinstance(conversation, str)
    if rules.is_enforced and not (is_text or (isinstance(conversation, list) and conversation)):
        msg = f"{name} must be a list of at least one message."
        raise InvalidField(msg, name)


def _read_images(
    places: list[ImagePlace], rules: FieldRules, findings: Findings
) -> list[tuple[ImagePlace, ChatImage]]:
    """Reads the files; what nothing is refused for and cannot be read stays where it is."""
    images = []
    for place in places:
        try:
            file = read_inline_image(place.url, place.param)
            if not rules.is_enforced:
                sniff_format(file)
        except RequestRefused as refusal:
            if rules.is_enforced:
                raise
            findings.note(refusal.code, place.dotted)
        else:
            images.append((place, ChatImage(file, place.param, place.is_source)))
    return images


def _check_limits(document: dict[str, Any], protocol: Protocol, limits: ChatLimits) -> None:
    """Upstreams would read "true" as true and 1e9 as a number: what is checked has to be plain.

    An answer longer than it may be is asked for at the longest that it may be: clients ask for as
    much as some model can.
    """
    if not isinstance(document.get("stream"), bool | None):
        msg = "stream must be true or false."
        raise InvalidField(msg, "stream")
    for name in protocol.token_limits:
        if document.get(name) == UNSET_TOKENS and not isinstance(document[name], bool):
            del document[name]
        elif document.get(name) is not None:
            _check_count(document, name, None)
            _lower_shares(document, protocol, limits.max_answer_tokens / document[name])
            document[name] = min(document[name], limits.max_answer_tokens)
    for name in protocol.choice_limits:
        if document.get(name) is not None:
            _check_count(document, name, limits.max_choices)


def _lower_shares(document: dict[str, Any], protocol: Protocol, factor: float) -> None:
    """Keeps what may be thought below an answer that is lowered, as upstreams ask."""
    for name, member in protocol.token_shares:
        share = document.get(name)
        if factor >= 1 or not isinstance(share, dict):
            continue
        tokens = share.get(member)
        if isinstance(tokens, int) and not isinstance(tokens, bool):
            share[member] = int(min(tokens, 1 << 53) * factor)


def _check_count(document: dict[str, Any], name: str, maximum: int | None) -> None:
    value = document[name]
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not (is_whole and 1 <= value <= (maximum or value)):
        most = "up" if maximum is None else f"to {maximum}"
        msg = f"{name} must be a whole number from 1 {most}."
        raise InvalidField(msg, name)


def _read_own_field(document: dict[str, Any]) -> bool:
    """Takes out what is meant for this service alone."""
    own = document.pop(OWN_FIELD, None) or {}
    if not isinstance(own, dict):
        msg = f"{OWN_FIELD} must be an object."
        raise InvalidField(msg, OWN_FIELD)
    unknown = next((name for name in own if name != "return_image"), None)
    if unknown is not None:
        msg = "There is no such field."
        raise InvalidField(msg, f"{OWN_FIELD}.{unknown[:64]}")
    return_image = own.get("return_image", False)
    if not isinstance(return_image, bool):
        msg = f"{OWN_FIELD}.return_image must be true or false."
        raise InvalidField(msg, f"{OWN_FIELD}.return_image")
    return return_image


def _turn(param: str, conversation: str) -> int | None:
    """The index of the message that an image stands in."""
    found = re.match(rf"{conversation}\[(\d+)\]", param)
    return None if found is None else int(found[1])


def _gap(mark: str, kind: GapKind, number: int = 0) -> str:
    return f"{mark}{kind.value}{number};"


def _serialise(document: dict[str, Any], mark: str) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """Writes the document apart at its gaps; keys that stood twice stand once."""
    try:
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        msg = "A number in the body is too large."
        raise InvalidBody(msg) from error
    first, *rest = text.split(mark)
    gaps, fragments = [], [first.encode()]
    for piece in rest:
        gap, _, fragment = piece.partition(";")
        gaps.append(gap)
        fragments.append(fragment.encode())
    return tuple(fragments), tuple(gaps)
