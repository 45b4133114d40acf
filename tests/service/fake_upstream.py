"""An OpenAI-style server on a real port that remembers what it was sent."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from codefend.service.forward.probe import PROBE_ID


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
        if document.get("stream"):
            words = self.upstream.answer.split()
            chunks = [{"choices": [{"delta": {"content": word}}]} for word in words]
            events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
            self.send(f"{events}data: [DONE]\n\n".encode(), "text/event-stream")
            return
        message = {"role": "assistant", "content": self.upstream.answer}
        document = {"choices": [{"message": message}], "usage": {"total_tokens": 7}}
        self.send(json.dumps(document).encode(), "application/json")

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
