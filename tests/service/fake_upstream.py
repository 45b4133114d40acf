"""An OpenAI-style server on a real port that remembers what it was sent."""

import itertools
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from codefend.service.forward.probe import PROBE_ID

_NUMBERS = itertools.count(1)


def completion(answer):
    """Whole, and as events."""
    whole = {
        "choices": [{"message": {"role": "assistant", "content": answer}}],
        "usage": {"total_tokens": 7},
    }
    chunks = [{"choices": [{"delta": {"content": word}}]} for word in answer.split()]
    return whole, "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"


def response(answer):
    """The same as OpenAI's responses are; each has ids of its own."""
    number = next(_NUMBERS)
    text = {"type": "output_text", "text": answer, "annotations": [], "logprobs": []}
    item = {
        "type": "message",
        "id": f"msg_{number}",
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }
    whole = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7,
        },
    }
    at = {"output_index": 0, "item_id": item["id"], "content_index": 0}
    begun = whole | {"status": "in_progress", "output": [], "usage": None}
    part = {"type": "response.content_part.added", **at, "part": text | {"text": ""}}
    events = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}},
        part,
        *(
            {"type": "response.output_text.delta", **at, "delta": word, "logprobs": []}
            for word in answer.split()
        ),
        {"type": "response.output_text.done", **at, "text": answer, "logprobs": []},
        part | {"type": "response.content_part.done", "part": text},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    return whole, "".join(
        f"event: {each['type']}\ndata: {json.dumps(each | {'sequence_number': n})}\n\n"
        for n, each in enumerate(events)
    )


def message(answer):
    """The same as Anthropic's messages are."""
    usage = {"input_tokens": 3, "output_tokens": 4}
    begun = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    text = {"type": "text", "text": ""}
    words = [{"type": "text_delta", "text": word} for word in answer.split()]
    events = [
        {"type": "message_start", "message": begun | {"usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": text},
        *({"type": "content_block_delta", "index": 0, "delta": word} for word in words),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": usage},
        {"type": "message_stop"},
    ]
    whole = begun | end | {"content": [text | {"text": answer}], "usage": usage}
    return whole, "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)


# By path, what makes an answer out of a text.
ANSWERS = {
    "/v1/chat/completions": completion,
    "/v1/responses": response,
    "/v1/messages": message,
    "/v1/messages/count_tokens": lambda _: ({"input_tokens": 7}, ""),
}


class FakeUpstream:
    def __init__(self, url):
        self.url = url
        self.bodies = []
        self.headers = []
        self.status = 200
        self.answer = "a red car"
        self.reply = None  # takes the handler and the request: answers in another way
        # What the service asks to learn what is served is no question: it is kept apart.
        self.probes = []
        self.probe_reply = None  # takes the handler: answers a probe in another way


class _Handler(BaseHTTPRequestHandler):
    upstream = None

    def log_message(self, *_):
        pass

    def parse_request(self):
        is_sound = super().parse_request()
        if is_sound and self.headers.get("x-request-id") == PROBE_ID:
            self.command = "PROBE"
        return is_sound

    def do_PROBE(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.upstream.probes.append((self.path, body, dict(self.headers)))
        if self.upstream.probe_reply is not None:
            self.upstream.probe_reply(self)
        elif body:
            self.send(b'{"error": {"message": "no messages"}}', "application/json", 400)
        else:
            self.send(b'{"data": [{"id": "first-model"}]}', "application/json", 200)

    def do_GET(self):
        self.upstream.headers.append(dict(self.headers))
        self.send(json.dumps({"data": [{"id": "first-model"}]}).encode(), "application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.upstream.bodies.append(body)
        self.upstream.headers.append(dict(self.headers))
        document = json.loads(body)
        if self.upstream.reply is not None:
            self.upstream.reply(self, document)
            return
        self.answer(document, self.upstream.answer)

    def answer(self, document, text):
        """Says a text in the protocol of the path, whole or streamed as was asked for."""
        whole, events = ANSWERS[self.path](text)
        if document.get("stream"):
            self.send(events.encode(), "text/event-stream")
        else:
            self.send(json.dumps(whole).encode(), "application/json")

    def send(self, content, media_type, status=None, headers=()):
        self.send_response(status or self.upstream.status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(content)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def begin_stream(self):
        """Without a length: the answer ends when the connection does."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.end_headers()


@contextmanager
def run_upstream():
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.upstream = FakeUpstream(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield handler.upstream
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
