"""A collector on a real port receives what a service with traces sends."""

import gzip
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

from codefend.service.conventions import guardrail_attributes
from codefend.service.tracing import Tracer, choose_request_id, make_tracer, read_trace
from tests.service.pictures import encode, png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form

TRACE_ID, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def headers_of(*fields):
    return Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in fields])


def begin(header):
    trace = read_trace(headers_of(("traceparent", header)))
    return Tracer(TracerProvider(ParentBased(ALWAYS_ON))).begin("/v1/vqa", trace, 0.0)


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
    assert trace.headers == {"traceparent": f"00-{trace_id(trace)}-{span_id(trace)}-01"}
    assert span_id(trace) != parent_id(trace)


def test_a_client_decides_what_is_recorded():
    trace = begin(CLIENT[:-2] + "00")
    assert not trace.span.get_span_context().trace_flags.sampled
    assert trace.headers["traceparent"].endswith("-00")


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
    """The URL of a collector that speaks OTLP over HTTP, and the spans that it was sent."""
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
                assert named["service.name"] in {"codefend", "model"}
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
            headers = {"traceparent": f"{traced[:-2]}{flags}", "tracestate": "rojo=1"}
            form = as_form(png(), question="?")
            assert service.client.post("/v1/vqa", **form, headers=headers).status_code == 200
    ours = [span for span in spans if span.trace_id.hex() == TRACE_ID]
    (request,) = (span for span in ours if span.parent_span_id.hex() == CLIENT_SPAN)
    assert request.name == "/v1/vqa"
    attributes = {attribute.key: attribute.value for attribute in request.attributes}
    assert attributes["codefend.outcome"].string_value == "ok"
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["gen_ai.operation.name"].string_value == "chat"
    stages = [span for span in ours if span not in (request, *guardrails(ours))]
    assert [span.name for span in stages] == [
        "admit", "decode", "queue", "purify", "encode", "forward", "respond"
    ]  # fmt: skip
    for span in stages:
        assert span.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano
    (image,) = guardrails(ours)
    assert image.parent_span_id == request.span_id
    assert request.start_time_unix_nano <= image.start_time_unix_nano
    assert image.end_time_unix_nano <= request.end_time_unix_nano
    sent = [
        {k.lower(): v for k, v in headers.items()}["traceparent"] for headers in upstream.headers
    ]
    assert sent[0] == f"00-{TRACE_ID}-{request.span_id.hex()}-01"
    assert sent[-1].endswith("-00")
    assert httpx.Headers(upstream.headers[-1])["tracestate"] == "rojo=1"
    assert json.loads(upstream.bodies[0])["stream"] is False


def said(span):
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def guardrails(spans):
    return [span for span in spans if span.name == "run_guardrail"]


def test_guard_and_model_stand_in_one_trace(collector, upstream):
    """The model behind writes a span of its own, as vLLM does, below that of the service."""
    url, spans = collector
    exporter = SimpleSpanProcessor(OTLPSpanExporter(url))
    model = TracerProvider(resource=Resource.create({"service.name": "model"}))
    model.add_span_processor(exporter)

    def answer(handler, document):
        context = TraceContextTextMapPropagator().extract(
            {name.lower(): value for name, value in handler.headers.items()}
        )
        with model.get_tracer("model").start_as_current_span("llm_request", context):
            handler.answer(document, "a red car")

    upstream.reply = answer
    with run_service(make_settings(upstream.url, otlp_endpoint=url)) as service:
        response = service.client.post("/v1/vqa", **as_form(png(), question="?"))
        request_id = response.headers["x-request-id"]
    model.shutdown()
    (request,) = (s for s in spans if said(s).get("codefend.request_id") == request_id)
    trace = [span for span in spans if span.trace_id == request.trace_id]
    (model_span,) = (span for span in trace if span.name == "llm_request")
    assert model_span.parent_span_id == request.span_id
    assert {span.name for span in trace} >= {"/v1/vqa", "forward", "run_guardrail", "llm_request"}
    assert said(guardrails(trace)[0]) == {
        "gen_ai.operation.name": "run_guardrail",
        "gen_ai.guardrail.component.name": "codefend",
        "gen_ai.guardrail.policy.id": "service",
        "gen_ai.guardrail.target.type": "input",
        "gen_ai.guardrail.verdict.type": "modify",
        "gen_ai.security.content.modified": True,
        "gen_ai.security.content.input.hash": hashlib.sha256(png()).hexdigest(),
    }


@pytest.mark.parametrize(
    ("changes", "verdict", "is_modified"),
    [
        ({}, "modify", True),
        ({"mode": "shadow"}, "allow", False),
        ({"on_flagged": "refuse"}, "deny", False),
    ],
)
def test_the_verdict_on_every_image_is_told(collector, upstream, changes, verdict, is_modified):
    url, spans = collector
    settings = make_settings(
        upstream.url, otlp_endpoint=url, engine_options={"suspects": True}, **changes
    )
    attacked = np.full((64, 64, 3), 255, np.uint8)
    with run_service(settings) as service:
        form = as_form(encode(attacked), question="?")
        response = service.client.post("/v1/vqa", **form)
        assert service.metric("codefend_images_total", verdict=verdict) == 1
    request_id = response.headers["x-request-id"]
    (request,) = (s for s in spans if said(s).get("codefend.request_id") == request_id)
    (image,) = (s for s in guardrails(spans) if s.trace_id == request.trace_id)
    found = said(image)
    assert found["gen_ai.guardrail.verdict.type"] == verdict
    assert found["gen_ai.security.content.modified"] is is_modified
    assert found["gen_ai.guardrail.risk.score"] == 1.0
    assert said(request).get("error.type") == ("image_flagged" if verdict == "deny" else None)


def test_an_image_without_a_verdict_says_why():
    found = guardrail_attributes({}, "service", "deadline_exceeded")
    assert found["error.type"] == "deadline_exceeded"
    assert "gen_ai.guardrail.verdict.type" not in found


@pytest.mark.parametrize(
    "states",
    [
        ["rojo=00f067aa0ba902b7"],
        ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"],
        ["rojo=1", "congo=2"],
        ["fw529a3039@dt=FfAAAA, a-b_c*d/e= x y"],
        [",rojo=1,,"],
        [",".join(f"k{number}=1" for number in range(32))],
    ],
)
def test_a_well_formed_state_of_a_trace_is_kept(states):
    fields = [("tracestate", state) for state in states]
    trace = read_trace(headers_of(("traceparent", CLIENT), *fields))
    assert trace == {"traceparent": CLIENT, "tracestate": ",".join(states)}


@pytest.mark.parametrize(
    "state",
    ["", ",", "rojo", "rojo=", "Rojo=1", "rojo=1=2", "rojo=a\x7f", "rojo=\xe9", "a=1,a=2", "=1",
     "x" * 257 + "=1", "a=" + "x" * 257, ",".join(f"k{number}=1" for number in range(33)),
     ",".join(f"k{number}=" + "x" * 200 for number in range(3)), "a@=1", "a@b@c=1"],
)  # fmt: skip
def test_a_malformed_state_is_left_out_and_the_trace_goes_on(state):
    fields = [("traceparent", CLIENT), ("tracestate", state)]
    assert read_trace(headers_of(*fields)) == {"traceparent": CLIENT}
    assert read_trace(headers_of(("tracestate", "rojo=1"))) == {}
    assert read_trace(headers_of(("traceparent", CLIENT), ("traceparent", CLIENT))) == {}


@pytest.mark.parametrize("name", ["a", "req_0af7-65:19", "8" * 128, "a.b=c+d/e@f~g"])
def test_a_well_formed_id_is_the_requests(name):
    assert choose_request_id(headers_of(("x-request-id", name))) == name


@pytest.mark.parametrize(
    "names",
    [
        [],
        [""],
        ["8" * 129],
        ["a b"],
        ['a"b'],
        ["a,b"],
        ["\xe9"],
        ["-a"],
        ["a\t"],
        ["a", "a"],
        ["<a>"],
    ],
)
def test_any_other_id_is_replaced(names):
    made = choose_request_id(headers_of(*(("x-request-id", name) for name in names)))
    assert len(made) == 32
    assert made not in names


@pytest.mark.parametrize("path", ["/v1/vqa", "/v1/models"])
def test_without_an_endpoint_id_and_trace_are_kept_all_the_same(service, upstream, caplog, path):
    assert make_tracer(None) is None
    caplog.set_level("INFO")
    kept = {"x-request-id": "mine-1", "traceparent": CLIENT, "tracestate": "rojo=1,congo=2"}
    body = as_form(png(), question="?") if path == "/v1/vqa" else {}
    response = service.client.request("POST" if body else "GET", path, **body, headers=kept)
    assert (response.status_code, response.headers["x-request-id"]) == (200, "mine-1")
    sent = httpx.Headers(upstream.headers[-1])
    assert {name: sent[name] for name in kept} == kept
    service.settle()
    line = next(r.fields for r in caplog.records if r.name == "codefend.access")
    assert (line["request_id"], line["trace_id"]) == ("mine-1", TRACE_ID)


def test_what_is_malformed_or_absent_is_not_sent_on(service, upstream):
    malformed = {"x-request-id": "two words", "traceparent": "nonsense", "tracestate": "rojo=1"}
    for headers in ({}, malformed):
        response = service.client.get("/v1/models", headers=headers)
        made, sent = response.headers["x-request-id"], httpx.Headers(upstream.headers[-1])
        assert len(made) == 32
        assert sent["x-request-id"] == made
        assert not {"traceparent", "tracestate"} & set(sent)


def test_one_requests_names_are_not_anothers(service, upstream):
    for name in ("first", "second"):
        headers = {"x-request-id": name, "traceparent": CLIENT}
        service.client.post("/v1/vqa", **as_form(png(), question="?"), headers=headers)
    service.client.post("/v1/vqa", **as_form(png(), question="?"))
    sent = [httpx.Headers(headers) for headers in upstream.headers]
    asked = [headers for headers in sent if "content-length" in headers]
    assert [headers["x-request-id"] for headers in asked[:2]] == ["first", "second"]
    assert "traceparent" not in asked[2]
