"""A model that answers at once, always the same: what is left is the way to it and back.

A process of its own: `python -m benchmarks.fixed_upstream PORT`. It reads a body to its end and
looks into none, so that its own share of every time is small.
"""

import asyncio
import json
import sys
from typing import cast

import httptools
import uvloop

__all__ = ["MODEL"]

MODEL = "fixed"
_COMPLETION = json.dumps(
    {
        "id": "chatcmpl-fixed",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "A red car to the left of a cat."},
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
    }
).encode()
_SAID = "A red car to the left of a cat."
_RESPONSE = json.dumps(
    {
        "id": "resp_fixed",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": MODEL,
        "status": "completed",
        "output": [
            {
                "type": "message",
                "id": "msg_fixed",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": _SAID, "annotations": []}],
            }
        ],
        "usage": {"input_tokens": 20, "output_tokens": 10, "total_tokens": 30},
    }
).encode()
_MESSAGE = json.dumps(
    {
        "id": "msg_fixed",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": _SAID}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 20, "output_tokens": 10},
    }
).encode()
_MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()


def _write_answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


_ANSWERS = {
    b"/v1/models": _write_answer(_MODELS),
    b"/v1/responses": _write_answer(_RESPONSE),
    b"/v1/messages": _write_answer(_MESSAGE),
}
_OTHERWISE = _write_answer(_COMPLETION)


class _Upstream(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, since uvloop's transports are not derived from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_message_complete(self) -> None:
        self._transport.write(_ANSWERS.get(self._path, _OTHERWISE))


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
