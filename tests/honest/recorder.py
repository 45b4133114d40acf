"""A model for clients to talk to: it answers as theirs would, and writes down what it was sent.

Runs in the clients' own environments, so it needs nothing but the standard library.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What different upstreams put into a message, which clients then send back; by the model's name.
EXTRAS = {
    "openai": {"refusal": None, "annotations": [
        {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 1, "title": "t",
                                                  "url": "https://a.example/b"}}]},
    "vllm": {"refusal": None, "annotations": None, "audio": None, "function_call": None,
             "reasoning": "So it is.", "reasoning_content": "So it is."},
    "openrouter": {"refusal": None, "reasoning": "So it is.", "reasoning_details": [
        {"type": "reasoning.text", "text": "So it is.", "signature": "c2ln" * 40, "format": "x",
         "index": 0}]},
    "litellm": {"function_call": None, "reasoning_content": "So it is.",
                "provider_specific_fields": {"citations": None, "thinking_blocks": None},
                "thinking_blocks": [{"type": "thinking", "thinking": "So it is.",
                                     "signature": "c2ln" * 40}]},
}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bodies = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._send(json.dumps({"object": "list", "data": [{"id": "openai"}]}), "application/json")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.bodies.append(body)
        message = _answer(body)
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        head = {"id": "c", "created": 1, "model": body["model"]}
        choice = {"index": 0, "finish_reason": reason, "logprobs": None}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if body.get("stream"):
            head["object"] = "chat.completion.chunk"
            for index, call in enumerate(message.get("tool_calls") or []):
                call["index"] = index
            chunks = [
                head | {"choices": [choice | {"delta": message, "finish_reason": None}]},
                head | {"choices": [choice | {"delta": {}}]},
                head | {"choices": [], "usage": usage},
            ]
            events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
            self._send(events + "data: [DONE]\n\n", "text/event-stream")
            return
        answer = head | {"object": "chat.completion", "usage": usage}
        answer["choices"] = [choice | {"message": message}]
        self._send(json.dumps(answer), "application/json")

    def _send(self, text, media_type):
        self.send_response(200)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def _answer(body):
    message = {"role": "assistant", "content": "A red car."} | EXTRAS.get(body["model"], {})
    tools = [tool["function"] for tool in body.get("tools") or [] if "function" in tool]
    is_answered = any(m["role"] in {"tool", "function"} for m in body["messages"])
    if tools and not is_answered and body.get("tool_choice") != "none":
        arguments = json.dumps(_example(tools[0].get("parameters") or {}))
        call = {"id": "call_1", "type": "function"}
        call["function"] = {"name": tools[0]["name"], "arguments": arguments}
        return message | {"content": None, "tool_calls": [call]}
    schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
    if schema:
        return message | {"content": json.dumps(_example(schema))}
    if (body.get("response_format") or {}).get("type") == "json_object":
        return message | {"content": '{"name": "car", "count": 1}'}
    return message


def _example(schema, root=None):
    """Any value that a schema allows; schemas of clients' own are simple."""
    root = root or schema
    if "$ref" in schema:
        target = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        return _example(target, root)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], root)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: _example(s, root) for name, s in schema.get("properties", {}).items()}
    plain = {"string": "car", "integer": 1, "number": 1.5, "boolean": True, "array": []}
    return plain.get(kind)


@contextmanager
def recording():
    """Yields the base URL, and the list that bodies go into."""
    handler = type("Handler", (_Handler,), {"bodies": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # clients leave as they like
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", handler.bodies
    finally:
        server.shutdown()
