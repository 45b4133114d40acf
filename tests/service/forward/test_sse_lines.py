"""Lines of a stream that comes in pieces."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.service.forward.sse import MAX_LINE_BYTES, LineCutter


@given(st.lists(st.sampled_from([b"a", b"bc", b"\r\n", b"\n", b""])), st.lists(st.integers(0, 60)))
def test_lines_are_the_same_however_they_come(parts, cuts):
    stream = b"".join(parts).replace(b"\r\n\r\n", b"\r\n")
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    cutter = LineCutter()
    lines = [line for a, b in itertools.pairwise(edges) for line in cutter.feed(stream[a:b])]
    assert b"".join(lines) + cutter.rest() == stream
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)


@pytest.mark.parametrize("piece", [b"x" * 4096, b"x" * (MAX_LINE_BYTES + 1)])
def test_a_line_has_an_end(piece):
    cutter = LineCutter()
    with pytest.raises(ValueError, match="end"):
        [cutter.feed(piece) for _ in range(MAX_LINE_BYTES // len(piece) + 1)]


def test_a_line_is_one_line_to_every_reader():
    with pytest.raises(ValueError, match="carriage return"):
        LineCutter().feed(b": a\rdata: b\n")
