"""A short slice of `make fuzz`: no planted picture or URL gets past the table of fields."""

from dataclasses import replace

import pytest

from codefend.service.decode import chat, values, walk
from codefend.service.protocols.chat import CHAT
from codefend.service.protocols.fields import Field, FieldKind, FieldRules, Owner
from tests.fuzz.planted_run import finds_any, plant_in_function, plant_over_http
from tests.service.running import make_settings, run_service


def test_no_plant_arrives_outside_text_and_opaque_fields():
    outcomes, found = plant_in_function(2000)
    assert found == []
    assert outcomes["plants forwarded"] > 100  # what may pass does: the judge has seen plants
    refusals = {"unknown_field", "closed_field", "unsupported_content", "remote_image"}
    assert all(outcomes[code] for code in refusals)


def test_nothing_arrives_where_unknown_fields_are_dropped():
    outcomes, found = plant_in_function(1000, 1, FieldRules(drops_unknown=True))
    assert found == []
    assert outcomes["unknown_field"] == 0


def test_no_plant_arrives_over_http(upstream):
    with run_service(make_settings(upstream.url)) as service:
        outcomes, found = plant_over_http(service, upstream, 300, 2)
    assert found == []
    assert outcomes["forwarded"] > 10


def as_text(kind):
    """The table with all fields of a kind as text."""
    text = Field(Owner.OPENAI, FieldKind.TEXT)
    fields = {name: text if f.kind is kind else f for name, f in CHAT.fields.items()}
    return replace(CHAT, fields=fields)


HOLES = {
    "closed fields that are text": lambda m: m.setattr(chat, "CHAT", as_text(FieldKind.CLOSED)),
    "references that are text": lambda m: m.setattr(chat, "CHAT", as_text(FieldKind.REFERENCE)),
    "unknown fields that pass": lambda m: m.setattr(
        chat, "CHAT", replace(CHAT, other=Field(Owner.OPENAI, FieldKind.TEXT))
    ),
    "pictures as names": lambda m: m.setattr(walk, "is_name", lambda _: True),
    "URLs in references": lambda m: m.setattr(values, "_is_url", lambda _: False),
    "media under closed names": lambda m: m.setattr(walk._Walker, "_closed", lambda *_: None),
    "parts of any type": lambda m: m.setattr(walk._Walker, "_strange", lambda *_: None),
    "images in texts": lambda m: m.setattr(walk, "find_text_image", lambda *_: None),
    "nothing is refused": lambda m: m.setattr(walk._Walker, "_refuse", lambda *_: None),
}


@pytest.mark.parametrize("hole", HOLES)
def test_the_judge_finds_a_hole(monkeypatch, hole):
    HOLES[hole](monkeypatch)
    assert finds_any(20_000)
