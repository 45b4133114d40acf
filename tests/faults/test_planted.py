"""A short slice of `make fuzz`: no planted picture or URL gets past the table of fields."""

from dataclasses import replace

import pytest

from codefend.service.decode import values, walk
from codefend.service.protocols.fields import Field, FieldKind, FieldRules, Owner
from tests.fuzz.planted_run import GROUNDS, finds_any, plant_in_function, plant_over_http
from tests.service.running import make_settings, run_service

each_protocol = pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS.keys())


@each_protocol
def test_no_plant_arrives_outside_text_and_opaque_fields(ground):
    outcomes, found = plant_in_function(2000, ground=ground)
    assert found == []
    assert outcomes["plants forwarded"] > 100  # what may pass does: the judge has seen plants
    refusals = {"unknown_field", "closed_field", "unsupported_content", "remote_image"}
    assert all(outcomes[code] for code in refusals)


@each_protocol
def test_nothing_arrives_where_unknown_fields_are_dropped(ground):
    outcomes, found = plant_in_function(1000, 1, FieldRules(drops_unknown=True), ground=ground)
    assert found == []
    assert outcomes["unknown_field"] == 0


@each_protocol
def test_no_plant_arrives_over_http(upstream, ground):
    with run_service(make_settings(upstream.url)) as service:
        outcomes, found = plant_over_http(service, upstream, 300, 2, ground=ground)
    assert found == []
    assert outcomes["forwarded"] > 10


def as_text(table, kind):
    """The table with all fields of a kind as text."""
    text = Field(Owner.OPENAI, FieldKind.TEXT)
    fields = {name: text if f.kind is kind else f for name, f in table.fields.items()}
    return replace(table, fields=fields)


# Holes in a table, and in the walk under it.
TABLES = {
    "closed fields that are text": lambda table: as_text(table, FieldKind.CLOSED),
    "references that are text": lambda table: as_text(table, FieldKind.REFERENCE),
    "unknown fields that pass": lambda table: replace(
        table, other=Field(Owner.OPENAI, FieldKind.TEXT)
    ),
}
WALKS = {
    "pictures as names": lambda m: m.setattr(walk, "is_name", lambda _: True),
    "URLs in references": lambda m: m.setattr(values, "_is_url", lambda _: False),
    "media under closed names": lambda m: m.setattr(walk._Walker, "_closed", lambda *_: None),
    "parts of any type": lambda m: m.setattr(walk._Walker, "_strange", lambda *_: None),
    "images in texts": lambda m: m.setattr(walk, "find_text_image", lambda *_: None),
    "nothing is refused": lambda m: m.setattr(walk._Walker, "_refuse", lambda *_: None),
}


@each_protocol
@pytest.mark.parametrize("hole", TABLES)
def test_the_judge_finds_a_hole_in_a_table(hole, ground):
    protocol = replace(ground.protocol, table=TABLES[hole](ground.protocol.table))
    assert finds_any(20_000, replace(ground, protocol=protocol))


@each_protocol
@pytest.mark.parametrize("hole", WALKS)
def test_the_judge_finds_a_hole_in_the_walk(monkeypatch, hole, ground):
    WALKS[hole](monkeypatch)
    assert finds_any(20_000, ground)


@pytest.mark.parametrize("kind", ["_state"])
def test_the_judge_finds_ids_that_nobody_looks_at(monkeypatch, kind):
    monkeypatch.setattr(walk._Walker, kind, lambda *_: None)
    assert finds_any(20_000, GROUNDS["responses"])
