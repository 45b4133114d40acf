"""What the model behind the service does in the recorded requests, beside answering well."""

import json
import threading


def event(payload):
    return f"data: {payload if isinstance(payload, str) else json.dumps(payload)}\n\n".encode()


def chunk(content=None, reason=None, **fields):
    delta = {} if content is None else {"role": "assistant", "content": content}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    common = {"id": "c1", "object": "chat.completion.chunk", "created": 3, "model": "m"}
    return common | {"choices": [choice]} | fields


WORDS = [event(chunk(text)) for text in ("a", " red", " car")]
END = [event(chunk(reason="stop")), event("[DONE]")]
USAGE = [event(chunk(reason="stop")), event({"choices": [], "usage": {"total_tokens": 5}})]
ODD_ANSWER = (
    b'{ "id":"x",  "choices":[{"index":0,"message":{"role":"assistant","content":"\\u00fc}",'
    b'"tool_calls":[{"id":"1"}]},"logprobs":{"content":[0.10]}}],"usage":{"total_tokens":1e1}\n}'
)


def sends(content, media_type="application/json", status=200, **headers):
    """A reply of these bytes."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]

    def reply(handler, _):
        handler.send(content, media_type, status, named)

    return reply


def streams(*events):
    """A reply that streams these events and closes the connection."""

    def reply(handler, _):
        handler.begin_stream()
        handler.wfile.write(b"".join(events))
        handler.wfile.flush()

    return reply


def hangs_up(handler, _):
    """Closes the connection without a word."""
    handler.close_connection = True
    handler.connection.close()


def lies_about_its_length(handler, _):
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices":')
    handler.close_connection = True


class Holding:
    """A reply that begins a stream and ends it when it is told to."""

    def __init__(self):
        self.may_end = threading.Event()

    def __call__(self, handler, _):
        handler.begin_stream()
        handler.wfile.write(WORDS[0])
        handler.wfile.flush()
        self.may_end.wait(60)
        handler.wfile.write(b"".join(END))


SECRET = {"error": {"message": "secret words of the upstream", "code": "whatever"}}
REPLIES = {
    "odd": sends(ODD_ANSWER),
    "stream": streams(*WORDS, *END),
    "stream with usage": streams(*WORDS, *USAGE, event("[DONE]")),
    "stream of one event": streams(event("[DONE]")),
    "stream without end": streams(*WORDS),
    "stream with an error": streams(*WORDS, event(SECRET)),
    "stream of garbage": streams(*WORDS, b"data: {broken\n\n", *END),
    "stream with comments": streams(b": ping\n\n", *WORDS, b"event: x\nid: 3\n\n", *END),
    "empty stream": streams(),
    "no stream": sends({"choices": [{"message": {"content": "whole"}}]}),
    "not JSON": sends(b"<html>hello</html>", "text/html"),
    "broken JSON": sends(b'{"choices": ['),
    "no choices": sends({"choices": []}),
    "a list": sends([1, 2]),
    "null content": sends({"choices": [{"message": {"content": None}}]}),
    "no content": sends({"choices": [{"message": {}}]}),
    "own codefend": sends({"choices": [{"message": {"content": "x"}}], "codefend": {"a": 1}}),
    "empty": sends(b""),
    "hangs up": hangs_up,
    "short": lies_about_its_length,
    "redirect": sends(b"", status=302, location="http://127.0.0.1:1/"),
    "no content status": sends(b"", status=204),
    "retry after": sends(SECRET, status=429, retry_after="7"),
    "unavailable": sends(SECRET, status=503, retry_after="11"),
    "bad request": sends(
        {"error": {"message": "too many tokens", "code": "context_length_exceeded", "param": "x"}},
        status=400,
    ),
} | {f"status {status}": sends(SECRET, status=status) for status in (
    400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504,
)}  # fmt: skip
