"""The protocols as clients speak them: conversations with images in every place of each."""

import base64
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.service.canary import canary
from tests.service.pictures import encode

FORMATS = ("PNG", "JPEG", "WEBP")
SIZES = ((40, 64), (72, 96), (130, 200))
OWNERS = itertools.count(1)


class Owner:
    """Someone with images of their own, each of another format and size."""

    def __init__(self):
        self.id = next(OWNERS)
        self.num_images = 0

    def picture(self):
        """The media type and the base64 of their next one."""
        number, self.num_images = self.num_images, self.num_images + 1
        kind = self.id + number
        image_format = FORMATS[kind % len(FORMATS)]
        pixels = canary(self.id, number, *SIZES[kind // 3 % len(SIZES)])
        encoded = base64.b64encode(encode(pixels, image_format)).decode()
        return f"image/{image_format.lower()}", encoded

    def url(self):
        media_type, encoded = self.picture()
        return f"data:{media_type};base64,{encoded}"

    def image(self, **more):
        """As OpenAI's chat has it."""
        return {"type": "image_url", "image_url": {"url": self.url()} | more}

    def source(self):
        """As Anthropic has it."""
        media_type, encoded = self.picture()
        return {"type": "base64", "media_type": media_type, "data": encoded}

    def block(self):
        return {"type": "image", "source": self.source()}

    def asked(self):
        """Their name, as OpenAI's responses have texts."""
        return {"type": "input_text", "text": self.text()["text"]}

    def text(self):
        return {"type": "text", "text": f"owner-{self.id}"}


@dataclass(frozen=True)
class Spoken:
    """A protocol as a client speaks it.

    Attributes:
        path: Where.
        shapes: Conversations of an owner's, by what is in them.
        refused: Parts of a message that no image may come in with, by what they are.
        conversing: Makes a body of messages.
        answer: Answers such a body, in the upstream's place.
        field: Of such a body, the one that holds the messages.
        streams: Whether it has streams.
    """

    path: str
    shapes: Mapping[str, Callable]
    refused: Mapping[str, Callable]
    conversing: Callable
    answer: Callable
    field: str = "messages"
    streams: tuple[bool, ...] = (False, True)

    def body(self, messages, *, stream=False):
        return self.conversing(messages) | ({"stream": True} if stream else {})


def pictures_in(value):
    """The base64 of every image of a document, in their order, wherever a protocol has them."""
    if isinstance(value, dict):
        match value:
            case {"type": "image_url", "image_url": {"url": url}}:
                yield url.partition(",")[2]
            case {"image_url": str(url)}:
                yield url.partition(",")[2]
            case {"type": "base64", "media_type": "image/png", "data": data}:
                yield data
            case _:
                value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from pictures_in(entry)


def texts_in(value):
    """Every text of a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from texts_in(entry)


def says(role, *content, **fields):
    return {"role": role, "content": list(content), **fields}


def _history(picture):
    """Four questions with an image each, and answers to them."""
    return lambda o: [
        message
        for _ in range(4)
        for message in (
            says("user", o.text(), picture(o)),
            {"role": "assistant", "content": "seen"},
            {"role": "user", "content": "and now?"},
            {"role": "assistant", "content": "once more"},
        )
    ]


CALL = {"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}
_CHAT_SHAPES = {
    "one image": lambda o: [says("user", o.text(), o.image())],
    "the image first": lambda o: [says("user", o.image(), o.text())],
    "images and texts in turns": lambda o: [
        says("user", o.text(), o.image(), o.text(), o.image(), o.image(detail="high"))
    ],
    "a plain string": lambda o: [
        says("user", o.text(), {"type": "image_url", "image_url": o.url()})
    ],
    "bare base64": lambda o: [
        says("user", o.text(), {"type": "image_url", "image_url": o.picture()[1]})
    ],
    "a system's image": lambda o: [says("system", o.image()), says("user", o.text(), o.image())],
    "a developer's image": lambda o: [says("developer", o.image()), says("user", o.text())],
    "a tool's image": lambda o: [
        says("user", o.text(), o.image()),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        says("tool", o.image(), o.image(), tool_call_id="t"),
    ],
    "an assistant's image": lambda o: [says("assistant", o.image()), says("user", o.text())],
    "a long history": _history(Owner.image),
    "a body that a decode process reads": lambda o: [
        {"role": "user", "content": "word " * 10_000},
        says("user", o.text(), *(o.image() for _ in range(6))),
    ],
    "no image": lambda o: [{"role": "user", "content": f"owner-{o.id}"}],
}


def _elsewhere(url):
    return lambda _: {"type": "image_url", "image_url": {"url": url}}


REMOTE = {
    "a remote URL": "https://example.org/cat.png",
    "a loopback URL": "http://127.0.0.1:1/cat.png",
    "a metadata URL": "http://169.254.169.254/latest",
    "a URL that parsers read differently": "http://a.b\\@127.0.0.1/",
    "a file URL": "file:///etc/passwd",
    "a URL without a scheme": "//example.org/cat.png",
}
_CHAT_REFUSED = {
    "a video": lambda o: {"type": "video_url", "video_url": {"url": o.url()}},
    "a file": lambda o: {"type": "file", "file": {"file_data": o.url()}},
    "audio": lambda o: {"type": "input_audio", "input_audio": {"data": o.url()}},
    "embeddings": lambda o: {"type": "image_embeds", "image_embeds": o.url()},
    "another API's image": lambda o: {"type": "image", "source": {"data": o.url()}},
    "the Responses API's image": lambda o: {"type": "input_image", "image_url": o.url()},
    "no type": lambda o: {"image_url": {"url": o.url()}},
    "an image in a text part": lambda o: o.text() | {"image_url": {"url": o.url()}},
    "an image by its cache id": lambda o: o.image() | {"uuid": "another-callers"},
    "a list in a list": lambda o: [o.image()],
} | {name: _elsewhere(url) for name, url in REMOTE.items()}


def _answer_chat(handler, document):
    choice = {"index": 0, "finish_reason": "stop"}
    if document.get("stream"):
        chunk = {"choices": [choice | {"delta": {"content": "seen"}}]}
        content = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
        handler.send(content, "text/event-stream")
        return
    message = {"role": "assistant", "content": "seen"}
    handler.send(json.dumps({"choices": [choice | {"message": message}]}).encode(), "text/json")


CHAT = Spoken(
    path="/v1/chat/completions",
    shapes=_CHAT_SHAPES,
    refused=_CHAT_REFUSED,
    conversing=lambda messages: {"model": "m", "messages": messages},
    answer=_answer_chat,
)


def _result(*content):
    return {"type": "tool_result", "tool_use_id": "t", "content": list(content)}


def _document(source):
    return {"type": "document", "source": source}


_USE = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
_MESSAGE_SHAPES = {
    "one image": lambda o: [says("user", o.text(), o.block())],
    "the image first": lambda o: [says("user", o.block(), o.text())],
    "images and texts in turns": lambda o: [
        says("user", o.text(), o.block(), o.text(), o.block(), o.block())
    ],
    "a data: URL": lambda o: [
        says("user", o.text(), {"type": "image", "source": {"type": "url", "url": o.url()}})
    ],
    "a data: URL as base64": lambda o: [
        says("user", o.text(), {"type": "image", "source": {"type": "base64", "data": o.url()}})
    ],
    "a tool's image": lambda o: [
        says("user", o.text(), o.block()),
        says("assistant", _USE),
        says("user", _result(o.block(), {"type": "text", "text": "x"}, o.block()), o.block()),
    ],
    "a document's images": lambda o: [
        says("user", o.text(), _document({"type": "content", "content": [o.block(), o.block()]}))
    ],
    "a tool's document": lambda o: [
        says("user", o.text(), _result(_document({"type": "content", "content": [o.block()]})))
    ],
    "an assistant's image": lambda o: [says("assistant", o.block()), says("user", o.text())],
    "a long history": _history(Owner.block),
    "a body that a decode process reads": lambda o: [
        {"role": "user", "content": "word " * 10_000},
        says("user", o.text(), *(o.block() for _ in range(6))),
    ],
    "no image": lambda o: [{"role": "user", "content": f"owner-{o.id}"}],
}


def _at(url):
    return lambda _: {"type": "image", "source": {"type": "url", "url": url}}


_MESSAGE_REFUSED = {
    "a PDF": lambda o: _document(o.source() | {"media_type": "application/pdf"}),
    "a document at a URL": lambda o: _document({"type": "url", "url": o.url()}),
    "a document that is an image": lambda o: _document(o.source()),
    "a text that is an image": lambda o: _document(o.source() | {"type": "text"}),
    "a file": lambda _: {"type": "image", "source": {"type": "file", "file_id": "f"}},
    "an upload": lambda _: {"type": "container_upload", "file_id": "f"},
    "another API's image": lambda o: o.image(),
    "the Responses API's image": lambda o: {"type": "input_image", "image_url": o.url()},
    "no type": lambda o: {"source": o.source()},
    "a source without a type": lambda o: {"type": "image", "source": {"data": o.url()}},
    "a source that is a string": lambda o: {"type": "image", "source": o.url()},
    "an image in a text": lambda o: o.text() | {"source": o.source()},
    "an image in a search result": lambda o: {
        "type": "search_result",
        "source": "s",
        "title": "t",
        "content": [o.block()],
    },
    "an image in a thought": lambda o: {"type": "thinking", "thinking": [o.block()]},
    "a result in a result": lambda o: _result(_result(o.block())),
    "a list in a list": lambda o: [o.block()],
} | {name: _at(url) for name, url in REMOTE.items()}


def _named(kind, **fields):
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n"


def _answer_messages(handler, document):
    said = {"type": "text", "text": "seen"}
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [said]}
    if document.get("stream"):
        events = (
            _named("message_start", message=message | {"content": []}),
            _named("content_block_start", index=0, content_block=said),
            _named("content_block_stop", index=0),
            _named("message_delta", delta={"stop_reason": "end_turn"}, usage=usage),
            _named("message_stop"),
        )
        handler.send("".join(events).encode(), "text/event-stream")
        return
    handler.send(json.dumps(message | {"usage": usage}).encode(), "application/json")


def _answer_count(handler, _):
    handler.send(b'{"input_tokens": 7, "seen": true}', "application/json")


MESSAGES = Spoken(
    path="/v1/messages",
    shapes=_MESSAGE_SHAPES,
    refused=_MESSAGE_REFUSED,
    conversing=lambda messages: {"model": "m", "max_tokens": 9, "messages": messages},
    answer=_answer_messages,
)
COUNT_TOKENS = Spoken(
    path="/v1/messages/count_tokens",
    shapes=_MESSAGE_SHAPES,
    refused=_MESSAGE_REFUSED,
    conversing=lambda messages: {"model": "m", "messages": messages},
    answer=_answer_count,
    streams=(False,),
)


def _shown(o):
    return {"type": "input_image", "image_url": o.url(), "detail": "low"}


def _output(kind, output):
    return {"type": kind, "call_id": "c", "output": output}


_RESPONSE_SHAPES = {
    "one image": lambda o: [says("user", o.asked(), _shown(o))],
    "the image first": lambda o: [says("user", _shown(o), o.asked())],
    "images and texts in turns": lambda o: [
        says("user", o.asked(), _shown(o), o.asked(), _shown(o), _shown(o), type="message")
    ],
    "bare base64": lambda o: [
        says("user", o.asked(), {"type": "input_image", "image_url": o.picture()[1]})
    ],
    "a developer's image": lambda o: [says("developer", _shown(o)), says("user", o.asked())],
    "a tool's image": lambda o: [
        says("user", o.asked(), _shown(o)),
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        _output("function_call_output", [_shown(o), o.asked(), _shown(o)]),
    ],
    "a custom tool's image": lambda o: [
        says("user", o.asked()),
        _output("custom_tool_call_output", [_shown(o)]),
    ],
    "a screenshot": lambda o: [
        says("user", o.asked()),
        _output("computer_call_output", {"type": "computer_screenshot", "image_url": o.url()}),
    ],
    "a long history": lambda o: [
        message
        for _ in range(4)
        for message in (
            says("user", o.asked(), _shown(o)),
            {"role": "assistant", "content": "seen"},
        )
    ],
    "a body that a decode process reads": lambda o: [
        {"role": "user", "content": "word " * 10_000},
        says("user", o.asked(), *(_shown(o) for _ in range(6))),
    ],
    "no image": lambda o: [{"role": "user", "content": f"owner-{o.id}"}],
}


def _shown_at(url):
    return lambda _: {"type": "input_image", "image_url": url}


_RESPONSE_REFUSED = {
    "a file": lambda o: {"type": "input_file", "filename": "a.pdf", "file_data": o.url()},
    "a file's id": lambda _: {"type": "input_image", "file_id": "f"},
    "audio": lambda o: {"type": "input_audio", "input_audio": {"data": o.url()}},
    "the chat's image": lambda o: o.image(),
    "another API's image": lambda o: o.block(),
    "no type": lambda o: {"image_url": o.url()},
    "an image in a text": lambda o: o.asked() | {"image_url": o.url()},
    "a list in a list": lambda o: [_shown(o)],
} | {name: _shown_at(url) for name, url in REMOTE.items()}


def _answer_response(handler, document):
    said = [{"type": "output_text", "text": "seen", "annotations": []}]
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": said}
    response = {"id": "resp_1", "object": "response", "status": "completed", "output": [item]}
    if document.get("stream"):
        begun = {**response, "status": "in_progress", "output": []}
        events = (
            _named("response.created", sequence_number=0, response=begun),
            _named("response.completed", sequence_number=1, response=response),
        )
        handler.send("".join(events).encode(), "text/event-stream")
        return
    handler.send(json.dumps(response).encode(), "application/json")


RESPONSES = Spoken(
    path="/v1/responses",
    shapes=_RESPONSE_SHAPES,
    refused=_RESPONSE_REFUSED,
    conversing=lambda messages: {"model": "m", "input": messages},
    answer=_answer_response,
    field="input",
)
SPOKEN = {spoken.path: spoken for spoken in (CHAT, MESSAGES, COUNT_TOKENS, RESPONSES)}
