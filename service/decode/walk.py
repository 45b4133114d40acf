"""Walks a request under the tables of its fields: finds its pictures, and what does not pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from codefend.service.decode.values import (
    LONGEST_NAME,
    LONGEST_REFERENCE,
    find_media,
    find_text_image,
    is_empty,
    is_name,
    is_number,
    is_plain,
    is_reference,
)
from codefend.service.errors import (
    ClosedField,
    ImageInText,
    InvalidField,
    MissingField,
    RequestRefused,
    UnknownField,
    UnsupportedContent,
)
from codefend.service.protocols.fields import (
    MEDIA_FIELDS,
    Choice,
    Field,
    FieldKind,
    FieldRules,
    Findings,
    Owner,
    Place,
)

__all__ = ["ImagePlace", "StateReference", "walk"]

_SETTING = "CODEFEND_ALLOWED_FIELDS"
_MEDIUM = Field(Owner(0), FieldKind.CLOSED)
_PICTURES = frozenset({FieldKind.PICTURE, FieldKind.PICTURE_SOURCE})
_KEPT = Field(Owner(0), FieldKind.CLOSED, reason="a gateway keeps it to itself")


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where an image stands in a document: `holder[key]` is its URL or its base64.

    Attributes:
        holder: The object that it stands in.
        key: Its name there.
        param: The place, for a refusal.
        dotted: The place without indices, for the log.
        is_source: Whether the object is a source of Anthropic's, which names the type apart.
    """

    holder: dict[str, Any]
    key: str
    param: str
    dotted: str
    is_source: bool = False

    @property
    def url(self) -> str:
        """What stands there."""
        return str(self.holder[self.key])

    def put(self, gap: str) -> None:
        """Leaves a gap there; in a source two: for the media type, and for the base64."""
        if self.is_source:
            self.holder.clear()
            self.holder.update(type="base64", media_type=gap, data=gap)
        else:
            self.holder[self.key] = gap


@dataclass(frozen=True, slots=True)
class StateReference:
    """An id of what the upstream keeps, and where it stands.

    Attributes:
        id: The id.
        param: The place, for a refusal.
        dotted: The place without indices, for the setting.
    """

    id: str
    param: str
    dotted: str


# A place: the one it is in, and its name or index there. Written out only where it is needed.
_At = tuple[Any, str | int]
_TOP: _At = (None, "")


def _param(at: _At) -> str:
    """The place as a refusal names it: with indices."""
    return _write(at, with_indices=True)


def _dotted(at: _At) -> str:
    """The place as the setting names it: without indices."""
    return _write(at, with_indices=False)


def _write(at: _At, *, with_indices: bool) -> str:
    parent, key = at
    if parent is None:
        return ""
    before = _write(parent, with_indices=with_indices)
    if isinstance(key, int):
        return f"{before}[{key}]" if with_indices else before
    return f"{before}.{key[:LONGEST_NAME]}" if before else key[:LONGEST_NAME]


def walk(
    document: dict[str, Any],
    place: Place,
    rules: FieldRules,
    *,
    image_part: str = "",
    reads_texts: bool = True,
) -> tuple[list[ImagePlace], list[StateReference], Findings]:
    """Checks every field of a request.

    Args:
        document: As parsed; unknown fields are taken out of it where the rules say so.
        place: Its table.
        rules: What is set.
        image_part: How an image is sent, for refusals.
        reads_texts: Whether texts are searched for images; false where none can be in them.

    Returns:
        The images, in the order of the document, the ids of what the upstream keeps, and what was
        found and not refused.

    Raises:
        UnknownField: A field stands in no table.
        ClosedField: A field is closed.
        UnsupportedContent: A field holds what could bring in an image.
        ImageInText: A text holds one.
        InvalidField: A field has the wrong shape.
        MissingField: An image has no URL.
    """
    walker = _Walker(rules, image_part, reads_texts=reads_texts)
    walker.object(document, place, _TOP)
    for holder, name in walker.unknown:
        del holder[name]
    return walker.images, walker.references, walker.findings


def _word(value: Any) -> str:
    """A value as a table names it: texts, true and false."""
    return value if isinstance(value, str) else str(value).lower()


class _Walker:
    def __init__(self, rules: FieldRules, image_part: str, *, reads_texts: bool) -> None:
        self.images: list[ImagePlace] = []
        self.references: list[StateReference] = []
        self.findings = Findings()
        self.unknown: list[tuple[dict[str, Any], str]] = []
        self._rules = rules
        self._image_part = image_part
        self._reads_texts = reads_texts
        self._readers: dict[FieldKind, Callable[[dict[str, Any], str, Field, _At], None]] = {
            FieldKind.PLAIN: self._plain,
            FieldKind.TEXT: self._text,
            FieldKind.OPAQUE: self._opaque,
            FieldKind.PICTURE: self._picture,
            FieldKind.PICTURE_SOURCE: self._picture,
            FieldKind.REFERENCE: self._reference,
            FieldKind.STATE: self._state,
            FieldKind.CLOSED: self._closed,
            FieldKind.OBJECT: self._objects,
            FieldKind.CONTENT: self._content,
        }

    def object(self, holder: dict[str, Any], place: Place, at: _At) -> None:
        """Reads all fields of an object."""
        for name, value in holder.items():
            known = place.fields.get(name)
            if known is None:
                self._unknown(holder, name, place, at)
            elif value is not None:
                self._readers[known.kind](holder, name, known, (at, name))
        for name in place.required:
            if not isinstance(holder.get(name), str):
                self._lacks(holder, name, place.fields[name], (at, name))

    def _report(self, kind: type[RequestRefused], message: str, at: _At) -> None:
        """Raises or notes a refusal that the operator can open."""
        if self._is_allowed(at):
            return
        advice = (
            f"Leave it out, or have the operator set {_SETTING}={_dotted(at)} to pass it unread."
        )
        self._refuse(kind(f"{message} {advice}", _param(at)), at)

    def _refuse(self, refusal: RequestRefused, at: _At) -> None:
        """Raises or notes one that nothing opens."""
        if self._rules.is_enforced:
            raise refusal
        self.findings.note(refusal.code, _dotted(at))

    def _is_allowed(self, at: _At) -> bool:
        return bool(self._rules.allowed) and _dotted(at) in self._rules.allowed

    # One reader for each kind: what stands at holder[name].

    def _plain(self, holder: dict[str, Any], name: str, known: Field, at: _At) -> None:
        value = holder[name]
        if known.values is not None and _word(value) not in known.values:
            msg = f"{_param(at)} is {' or '.join(sorted(known.values))} here; the rest is closed."
            self._report(ClosedField, msg, at)
        elif not is_plain(value):
            msg = (
                f"{_param(at)} takes numbers, true, false, null and names of up to {LONGEST_NAME} "
                "characters, no URLs."
            )
            self._report(UnsupportedContent, msg, at)

    def _reference(self, holder: dict[str, Any], name: str, _: Field, at: _At) -> None:
        if not is_reference(holder[name]):
            msg = (
                f"{_param(at)} takes a name of up to {LONGEST_REFERENCE} characters, "
                "neither a URL nor base64."
            )
            self._report(UnsupportedContent, msg, at)

    def _state(self, holder: dict[str, Any], name: str, _: Field, at: _At) -> None:
        value = holder[name]
        if isinstance(value, dict) and value.keys() == {"id"}:
            value = value["id"]
        if not isinstance(value, str):
            self._misshapen("an id", at)
        elif value and not self._is_allowed(at):
            self.references.append(StateReference(value, _param(at), _dotted(at)))

    def _text(self, holder: dict[str, Any], name: str, _: Field, at: _At) -> None:
        if self._reads_texts:
            self._check_text(holder[name], at)

    def _check_text(self, value: Any, at: _At) -> None:
        found = find_text_image(value, self._rules.text_images) if self._reads_texts else None
        if found is not None:
            msg = f"{_param(at)} holds {found}. Send images as parts: {self._image_part}."
            self._refuse(ImageInText(msg, _param(at)), at)

    def _opaque(self, holder: dict[str, Any], name: str, _: Field, at: _At) -> None:
        kind = find_media(holder[name])
        if kind is not None:
            msg = f"{_param(at)} holds an object of the type {kind}."
            self._report(UnsupportedContent, msg, at)

    def _closed(self, holder: dict[str, Any], name: str, known: Field, at: _At) -> None:
        if is_empty(holder[name]):
            return
        if known.reason:
            self._report(ClosedField, f"{_param(at)} is closed: {known.reason}.", at)
        else:
            msg = f"{_param(at)} is refused: it could bring in what nobody has purified."
            self._report(UnsupportedContent, msg, at)

    def _picture(self, holder: dict[str, Any], name: str, known: Field, at: _At) -> None:
        value = holder[name]
        if isinstance(value, str):
            is_source = known.kind is FieldKind.PICTURE_SOURCE
            self.images.append(ImagePlace(holder, name, _param(at), _dotted(at), is_source))
        elif isinstance(known.place, Place) and isinstance(value, dict):
            self.object(value, known.place, at)

    def _objects(self, holder: dict[str, Any], name: str, known: Field, at: _At) -> None:
        value = holder[name]
        if isinstance(value, dict):
            self._chosen(value, known, at)
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                if isinstance(entry, dict):
                    self._chosen(entry, known, (at, index))
                else:
                    self._misshapen("an object", (at, index))
        elif known.values is not None and isinstance(value, str):
            self._plain(holder, name, known, at)
        elif value and not is_number(value):
            self._misshapen("an object, or a list of objects", at)

    def _content(self, holder: dict[str, Any], name: str, known: Field, at: _At) -> None:
        value = holder[name]
        if isinstance(value, str):
            self._check_text(value, at)
            return
        if not isinstance(value, list):
            self._refuse_part(at)
            return
        for index, part in enumerate(value):
            if isinstance(part, dict):
                self._chosen(part, known, (at, index))
            elif isinstance(part, str):
                self._check_text(part, (at, index))
            else:
                self._refuse_part((at, index))

    def _refuse_part(self, at: _At) -> None:
        msg = (
            "Only text and images are taken here. Send a string, or a list of parts: texts, and "
            f"images as {self._image_part}."
        )
        self._refuse(UnsupportedContent(msg, _param(at)), at)

    def _chosen(self, holder: dict[str, Any], known: Field, at: _At) -> None:
        """Reads an object under its table, which may depend on one of its fields."""
        place = known.place
        if isinstance(place, Choice):
            value = holder.get(place.key)
            chosen = place.find(value)
            if chosen is None:
                self._strange(value, place, at)
                return
            if not isinstance(value, str) and (place.absent is None or value is not None):
                self._misshapen("a string", (at, place.key))
            place = chosen
        if place is not None:
            self.object(holder, place, at)

    def _strange(self, value: Any, choice: Choice, at: _At) -> None:
        """Refuses an object of a type that has no table; its type may be opened by its name."""
        place = _param((at, choice.key))
        if not isinstance(value, str) or not is_name(value):
            msg = f"{place} has to be one of: {', '.join(sorted(choice.places))}."
            self._refuse(UnsupportedContent(msg, place), (at, choice.key))
        elif not self._is_allowed((at, value)):
            setting = f"The operator may set {_SETTING}={_dotted((at, value))}."
            if choice.reason:
                msg = f"{place}: {value} is closed: {choice.reason}. {setting}"
                self._refuse(ClosedField(msg, place), (at, value))
                return
            msg = (
                f"Parts of the type {value} are refused: only text and images are taken, and "
                f"whatever could not be purified is not. Send images as {self._image_part}, or "
                f"have the operator set {_SETTING}={_dotted((at, value))}."
            )
            self._refuse(UnsupportedContent(msg, place), (at, value))

    # What stands in no row, or is not there.

    def _unknown(self, holder: dict[str, Any], name: str, place: Place, at: _At) -> None:
        value, folded, at = holder[name], name.casefold(), (at, name)
        if folded in place.folded:
            # Not lower(): there is a long s and a kelvin sign, and Go folds both.
            msg = f"The field is called {place.folded[folded]}."
            self._refuse(UnsupportedContent(msg, _param(at)), at)
        elif folded in MEDIA_FIELDS:
            self._closed(holder, name, _MEDIUM, at)
        elif not is_name(name):
            self._refuse_unknown(holder, name, at)
        elif place.closed_names is not None and place.closed_names.fullmatch(folded):
            self._closed(holder, name, _KEPT, at)
        elif place.other is not None:
            self._readers[place.other.kind](holder, name, place.other, at)
        elif not is_number(value) and not is_empty(value):
            self._refuse_unknown(holder, name, at)

    def _refuse_unknown(self, holder: dict[str, Any], name: str, at: _At) -> None:
        if self._rules.is_enforced and self._rules.drops_unknown:
            if not self._is_allowed(at):
                self.unknown.append((holder, name))
                self.findings.note("dropped", _dotted(at))
        elif is_name(name):
            self._report(UnknownField, f"{_param(at)} is not a field that is known here.", at)
        else:
            msg = f"Names of fields are {LONGEST_NAME} letters, digits and _.$- at most."
            self._refuse(UnknownField(msg, _param(at)), at)

    def _lacks(self, holder: dict[str, Any], name: str, known: Field, at: _At) -> None:
        if known.kind is FieldKind.OBJECT:
            if holder.get(name) is None:
                self._refuse(MissingField(f"{_param(at)} is missing.", _param(at)), at)
        elif known.kind not in _PICTURES:
            self._misshapen("a string", at)
        elif known.place is not None:
            if not isinstance(holder.get(name), dict):
                url = f"{_param(at)}.url"
                self._refuse(MissingField(f"{url} is missing.", url), at)
        elif name in holder:
            self._misshapen("a string: a data: URL", at)
        else:
            self._refuse(MissingField(f"{_param(at)} is missing.", _param(at)), at)

    def _misshapen(self, shape: str, at: _At) -> None:
        self._refuse(InvalidField(f"{_param(at)} must be {shape}.", _param(at)), at)
