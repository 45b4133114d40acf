import pytest

from codefend.service.tracing.context import Trace

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_client_s_trace_goes_on():
    trace = Trace.begin(CLIENT)
    assert trace.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert trace.parent_id == "b7ad6b7169203331"
    assert trace.is_sampled
    assert trace.traceparent == f"00-{trace.trace_id}-{trace.span_id}-01"
    assert trace.span_id != trace.parent_id


def test_a_client_decides_what_is_recorded():
    trace = Trace.begin(CLIENT[:-2] + "00")
    assert not trace.is_sampled
    assert trace.traceparent.endswith("-00")


@pytest.mark.parametrize(
    "header",
    ["", "nonsense", CLIENT.upper(), CLIENT + "-x", "01" + CLIENT[2:],
     f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{'a' * 32}-{'0' * 16}-01"],
)  # fmt: skip
def test_anything_else_begins_a_trace_of_its_own(header):
    first, second = Trace.begin(header), Trace.begin(header)
    assert first.parent_id is None
    assert len(first.trace_id) == 32
    assert first.trace_id != second.trace_id
