"""The table of fields beside the types of the clients: what they know and it does not is named."""

import collections.abc
import re
import types
import typing
from dataclasses import replace
from pathlib import Path

import anthropic.types
import openai.types.chat
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

from codefend.service.protocols.chat import CHAT
from codefend.service.protocols.fields import (
    MEDIA_FIELDS,
    Choice,
    Field,
    FieldKind,
    Owner,
    Place,
)

# Objects of these types are known, and refused as such.
REFUSED_TYPES = {"input_audio", "file"}
_WRAPPERS = (typing.Union, types.UnionType, typing.Annotated, list, collections.abc.Iterable,
             collections.abc.Sequence, typing.Required, typing.NotRequired)  # fmt: skip


def object_types(annotation):
    """The object types in an annotation, out of unions and lists."""
    origin = typing.get_origin(annotation)
    if origin in _WRAPPERS:
        for argument in typing.get_args(annotation):
            yield from object_types(argument)
    elif isinstance(annotation, type) and hasattr(annotation, "__annotations__"):
        yield annotation


def hints_of(kind):
    if hasattr(kind, "model_fields"):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return typing.get_type_hints(kind)


def literals(annotation):
    for argument in typing.get_args(annotation):
        yield from [argument] if isinstance(argument, str) else literals(argument)


def lacking(kind, place, path=""):
    """The fields of a type that a table lacks, and of the types in it that another does."""
    if isinstance(place, Choice):
        for value in literals(hints_of(kind).get(place.key)):
            chosen = place.find(value)
            if chosen is not None:
                yield from lacking(kind, chosen, f"{path}({value})")
            elif value not in REFUSED_TYPES:
                yield f"{path}({value})"
        return
    for name, annotation in hints_of(kind).items():
        here = f"{path}.{name}".lstrip(".")
        field = place.fields.get(name)
        if field is None:
            if name not in MEDIA_FIELDS:
                yield here
        elif field.place is not None:
            for inner in object_types(annotation):
                yield from lacking(inner, field.place, here)


ASSISTANT = CHAT.fields["messages"].place.places["assistant"]
PARTS = ASSISTANT.fields["content"].place


def test_the_table_has_every_field_of_openais_requests():
    assert list(lacking(CompletionCreateParamsStreaming, CHAT)) == []


def test_the_table_has_every_field_of_openais_messages():
    assert list(lacking(openai.types.chat.ChatCompletionMessage, ASSISTANT)) == []
    assert list(lacking(openai.types.chat.ChatCompletionMessageFunctionToolCall,
                        ASSISTANT.fields["tool_calls"].place)) == []  # fmt: skip


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("TextBlockParam", PARTS),
        ("TextBlock", PARTS),
        ("ThinkingBlockParam", PARTS),
        ("ThinkingBlock", PARTS),
        ("RedactedThinkingBlockParam", PARTS),
        ("ToolParam", CHAT.fields["tools"].place),
    ],
)
def test_the_table_has_what_gateways_take_over_from_anthropic(name, place):
    assert list(lacking(getattr(anthropic.types, name), place)) == []


class Newer(CompletionCreateParamsStreaming):
    invented: str


def test_a_new_field_is_named():
    assert list(lacking(Newer, CHAT)) == ["invented"]
    without = {name: field for name, field in CHAT.fields.items() if name != "seed"}
    smaller = Place(without, CHAT.folded)
    assert list(lacking(CompletionCreateParamsStreaming, smaller)) == ["seed"]


def test_a_new_field_of_a_part_is_named_with_its_place():
    text = PARTS.places["text"]
    fewer = {name: field for name, field in text.fields.items() if name != "cache_control"}
    smaller = Choice("type", {"text": replace(text, fields=fewer)})
    named = list(lacking(anthropic.types.TextBlockParam, smaller))
    assert named == ["(text).cache_control"]


def all_places(place=CHAT, path="", seen=None):
    """Every table once: where it is, and itself."""
    seen = set() if seen is None else seen
    if isinstance(place, Choice):
        inner = [*place.places.items(), *([("", place.other)] if place.other else [])]
        for value, each in inner:
            yield from all_places(each, f"{path}({value})", seen)
    elif id(place) not in seen:
        seen.add(id(place))
        yield path, place
        for name, field in place.fields.items():
            if field.place is not None:
                yield from all_places(field.place, f"{path}.{name}".lstrip("."), seen)


def all_fields() -> list[tuple[str, str, Field]]:
    return [(path, name, field) for path, p in all_places() for name, field in p.fields.items()]


def test_every_row_says_whose_the_field_is_and_of_what_kind():
    for path, name, field in all_fields():
        here = f"{path}.{name}"
        assert field.owners != Owner(0), here
        has_objects = field.kind in {FieldKind.OBJECT, FieldKind.CONTENT, FieldKind.PICTURE}
        assert has_objects or field.place is None, here
        assert field.kind not in {FieldKind.OBJECT, FieldKind.CONTENT} or field.place is not None, (
            here
        )
        assert field.kind is FieldKind.CLOSED or not field.reason, here
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name), here
        is_media = name in MEDIA_FIELDS
        assert not is_media or field.kind in {
            FieldKind.CLOSED,
            FieldKind.OBJECT,
            FieldKind.PICTURE,
        }, here


def test_no_name_is_in_a_table_twice_but_for_its_case():
    for path, place in all_places():
        assert len(place.folded) == len(place.fields), path


def test_every_upstream_that_the_readme_names_has_rows_of_its_own():
    owners = {owner for _, _, field in all_fields() for owner in field.owners}
    assert owners == set(Owner)


def test_the_documentation_names_every_field_of_a_request():
    text = (Path(__file__).parents[3] / "docs" / "upstreams.md").read_text()
    assert [name for name in {*CHAT.fields, *MEDIA_FIELDS} if f"`{name}`" not in text] == []
    assert all(len(line) <= 160 for line in text.splitlines())
