"""An OpenAI-style server on a real port that remembers what it was sent."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeUpstream:
    def __init__(self, url):
        self.url = url
        self.bodies = []
        self.headers = []
        self.status = 200
        self.answer = "a red car"


class _Handler(BaseHTTPRequestHandler):
    upstream = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._send(json.dumps({"data": [{"id": "first-model"}]}).encode(), "application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.upstream.bodies.append(body)
        self.upstream.headers.append(dict(self.headers))
        if json.loads(body)["stream"]:
            words = self.upstream.answer.split()
            chunks = [{"choices": [{"delta": {"content": word}}]} for word in words]
            events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
            self._send(f"{events}data: [DONE]\n\n".encode(), "text/event-stream")
            return
        message = {"role": "assistant", "content": self.upstream.answer}
        document = {"choices": [{"message": message}], "usage": {"total_tokens": 7}}
        self._send(json.dumps(document).encode(), "application/json")

    def _send(self, content, media_type):
        self.send_response(self.upstream.status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


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
