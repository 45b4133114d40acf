"""What the service and its children say to each other: one JSON object and one run of bytes.

JSON and not pickle: a child that a hostile image took over must not be able to run code here.
"""

import json
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

__all__ = [
    "QUESTION",
    "Ask",
    "Handler",
    "Message",
    "ask_nothing",
    "ask_through",
    "receive_message",
    "send_message",
]

# Meta holds text fields and sizes, never pixels; a longer one is not ours.
MAX_META_BYTES = 1 << 22
QUESTION = "asks"

Message = tuple[dict[str, Any], bytes]
# How a child asks the service for something in the midst of its work: meta out, meta back.
Ask = Callable[[dict[str, Any]], dict[str, Any]]
Handler = Callable[[dict[str, Any], bytes, Ask], Message]


def send_message(connection: Connection, meta: dict[str, Any], blob: bytes = b"") -> None:
    """Sends one message.

    Raises:
        OSError: The other side is gone.
    """
    connection.send_bytes(json.dumps(meta).encode())
    connection.send_bytes(blob)


def receive_message(connection: Connection) -> Message:
    """Waits for one message.

    Raises:
        EOFError: The other side closed its end.
        OSError: The other side is gone, or speaks nonsense.
    """
    meta = json.loads(connection.recv_bytes(MAX_META_BYTES))
    return meta, connection.recv_bytes()


def ask_nothing(_: dict[str, Any]) -> dict[str, Any]:
    """The reply to a child that has nothing to ask.

    Raises:
        ValueError: It asked all the same.
    """
    msg = "this message may ask nothing"
    raise ValueError(msg)


def ask_through(connection: Connection) -> Ask:
    """A child's way to ask the service, before it answers a message."""

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        send_message(connection, {QUESTION: question})
        return receive_message(connection)[0]

    return ask
