"""An upstream that speaks TCP by hand, so that it can be slow, dead, or lie about anything."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager, contextmanager, suppress

from codefend.service.forward.probe import PROBE_ID

SECRET = "at /srv/secret"


def head(status=200, media_type="application/json", length=None, *more):
    lines = [f"HTTP/1.1 {status} {SECRET}", f"Content-Type: {media_type}", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "\r\n"]).encode()


def whole(content, status=200, media_type="application/json", *more):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return head(status, media_type, len(content), *more) + content


def event(payload):
    return f"data: {payload if isinstance(payload, str) else json.dumps(payload)}\n\n".encode()


def words(*texts, reason=None):
    deltas = [{"choices": [{"delta": {"content": text}, "finish_reason": None}]} for text in texts]
    ends = [{"choices": [{"delta": {}, "finish_reason": reason}]}] if reason else []
    return b"".join(event(chunk) for chunk in deltas + ends)


def chunked(content):
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


STREAM_HEAD = head(200, "text/event-stream", None, "Transfer-Encoding: chunked")
DONE = event("[DONE]")
GOOD = whole({"choices": [{"message": {"role": "assistant", "content": "a red car"}}]})
GOOD_STREAM = STREAM_HEAD + chunked(words("a", " red", reason="stop") + DONE) + chunked(b"")


class RawUpstream:
    """Answers every request by `script(writer, request)`, a coroutine, or with its bytes."""

    def __init__(self):
        self.script = GOOD
        self.requests = []
        self.num_connections = 0
        self.port = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader, writer):
        self.num_connections += 1
        try:
            while True:
                request = await _read_request(reader)
                if request[1].get("x-request-id") == PROBE_ID:
                    writer.write(whole({"error": {"message": "a probe"}}, 400))
                    continue
                self.requests.append(request)
                if callable(self.script):
                    await self.script(writer, request)
                else:
                    writer.write(self.script)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read_request(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return lines[0], headers, body


def then_close(*parts):
    """A script that writes and hangs up."""

    async def script(writer, _):
        writer.write(b"".join(parts))
        await writer.drain()
        raise ConnectionError

    return script


def then_hang(*parts):
    """A script that writes and then does nothing until the other side has had enough."""

    async def script(writer, _):
        writer.write(b"".join(parts))
        await writer.drain()
        await until(writer.is_closing)
        raise ConnectionError

    return script


def without_end(first, again):
    """A script that never stops writing."""

    async def script(writer, _):
        writer.write(first)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(0)

    return script


async def until(condition):
    while not condition():  # noqa: ASYNC110 - the conditions are not this loop's to signal
        await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(upstream=None, port=0):
    """Serves in the running loop."""
    upstream = upstream or RawUpstream()
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        # asyncio's own callback asks even a cancelled task for its exception.
        with suppress(asyncio.CancelledError):
            await upstream.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def run_raw_upstream(upstream=None, port=0):
    """Serves in a thread, for a service that runs in another."""
    upstream = upstream or RawUpstream()
    ready, state = threading.Event(), {}

    async def main():
        state["loop"], state["end"] = asyncio.get_running_loop(), asyncio.Event()
        async with listening(upstream, port):
            ready.set()
            await state["end"].wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield upstream
    finally:
        state["loop"].call_soon_threadsafe(state["end"].set)
        thread.join()
