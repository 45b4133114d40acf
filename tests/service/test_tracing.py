"""A collector on a real port receives what a service with traces sends."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from codefend.service.tracing import Tracer, make_tracer
from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form

TRACE_ID, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def begin(header):
    return Tracer(TracerProvider(ParentBased(ALWAYS_ON))).begin("/v1/vqa", header, 0.0)


def trace_id(trace):
    return f"{trace.span.get_span_context().trace_id:032x}"


def span_id(trace):
    return f"{trace.span.get_span_context().span_id:016x}"


def parent_id(trace):
    return f"{trace.span.parent.span_id:016x}"


def test_a_client_s_trace_goes_on():
    trace = begin(CLIENT)
    assert trace_id(trace) == "0af7651916cd43dd8448eb211c80319c"
    assert parent_id(trace) == "b7ad6b7169203331"
    assert trace.span.get_span_context().trace_flags.sampled
    assert trace.traceparent == f"00-{trace_id(trace)}-{span_id(trace)}-01"
    assert span_id(trace) != parent_id(trace)


def test_a_client_decides_what_is_recorded():
    trace = begin(CLIENT[:-2] + "00")
    assert not trace.span.get_span_context().trace_flags.sampled
    assert trace.traceparent.endswith("-00")


@pytest.mark.parametrize(
    "header",
    ["", "nonsense", CLIENT.upper(), CLIENT + "-x", "01" + CLIENT[2:],
     f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{'a' * 32}-{'0' * 16}-01"],
)  # fmt: skip
def test_anything_else_begins_a_trace_of_its_own(header):
    first, second = begin(header), begin(header)
    assert first.span.parent is None
    assert len(trace_id(first)) == 32
    assert trace_id(first) != trace_id(second)


@pytest.fixture(scope="module")
def collector():
    """The URL of a collector, and the spans that it was sent."""
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                named = {a.key: a.value.string_value for a in resource.resource.attributes}
                assert named["service.name"] == "codefend"
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_span_a_request_and_one_a_stage_reach_the_collector(collector, upstream):
    url, spans = collector
    traced = f"00-{TRACE_ID}-{CLIENT_SPAN}-01"
    with run_service(make_settings(upstream.url, otlp_endpoint=url)) as service:
        for flags in ("01", "00"):  # the second client wants no record
            headers = {"traceparent": f"{traced[:-2]}{flags}"}
            form = as_form(png(), question="?")
            assert service.client.post("/v1/vqa", **form, headers=headers).status_code == 200
    ours = [span for span in spans if span.trace_id.hex() == TRACE_ID]
    (request,) = (span for span in ours if span.parent_span_id.hex() == CLIENT_SPAN)
    assert request.name == "/v1/vqa"
    attributes = {attribute.key: attribute.value for attribute in request.attributes}
    assert attributes["codefend.outcome"].string_value == "ok"
    assert attributes["http.response.status_code"].int_value == 200
    stages = [span for span in ours if span is not request]
    assert [span.name for span in stages] == [
        "admit", "decode", "queue", "purify", "encode", "forward", "respond"
    ]  # fmt: skip
    for span in stages:
        assert span.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano
    sent = [
        {k.lower(): v for k, v in headers.items()}["traceparent"] for headers in upstream.headers
    ]
    assert sent[0] == f"00-{TRACE_ID}-{request.span_id.hex()}-01"
    assert sent[-1].endswith("-00")
    assert json.loads(upstream.bodies[0])["stream"] is False


def test_without_an_endpoint_nothing_is_traced(service, upstream):
    assert make_tracer(None) is None
    headers = {"traceparent": f"00-{TRACE_ID}-{CLIENT_SPAN}-01"}
    service.client.post("/v1/vqa", **as_form(png(), question="?"), headers=headers)
    assert "traceparent" not in httpx.Headers(upstream.headers[0])
