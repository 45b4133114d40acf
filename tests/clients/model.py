"""A model that speaks chat completions, responses and messages, whole and streaming.

It answers with how many pictures it saw, in how many turns of the user, and what a tool said, so
that a client's own object proves what arrived. It checks every picture: that this run's purifier
signed it, and that it is one of those that the client was given. A user who says `mishap` and one
of `MISHAPS` gets it.
"""

import base64
import itertools
import json
import threading
from dataclasses import dataclass, field

from tests.service.canary import read_canary, read_signature
from tests.service.pictures import pixels_of

TOKENS = {"input": 11, "output": 7}
THOUGHT = "So it is."
# What Anthropic and OpenAI sign or encrypt, and take back as it was.
SEALED = base64.b64encode(THOUGHT.encode() * 20).decode()
CREATED = 1_760_000_000
MISHAPS = {
    "missing": (404, "not_found_error", "model_not_found", "There is no such model."),
    "too-long": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "The prompt has 9000 tokens, and 4096 are the most.",
    ),
    "busy": (429, "rate_limit_error", "rate_limit_exceeded", "There were too many requests."),
}
BREAKS = "breaks"  # a stream that ends with an error


def says(pictures=0, turns=1, told=""):
    """What the model answers."""
    return f"{pictures} pictures in {turns} turns" + (f"; told {told}" if told else "")


@dataclass
class Question:
    """What a request of any protocol comes to.

    Attributes:
        pictures: Their base64, in the order of the request.
        asked: What the user said last.
        turns: How often they spoke.
        is_told: Whether a tool has answered since the model last spoke.
        told: What it said.
        tool: The name and the schema of the function to call, if one is to be called.
        schema: What the answer has to look like, if it is not just text.
        thinks: Whether the client wants to see thoughts.
    """

    pictures: list = field(default_factory=list)
    asked: str = ""
    turns: int = 0
    is_told: bool = False
    told: str = ""
    tool: tuple | None = None
    schema: dict | None = None
    thinks: bool = False

    def hear(self, role, parts):
        """Takes the content of a message, or what a tool said."""
        parts = list(parts)
        texts = "".join(value for kind, value in parts if kind == "text")
        self.pictures += [value for kind, value in parts if kind == "picture"]
        if role == "tool":
            self.is_told, self.told = True, self.told + texts
        elif role == "assistant" and texts:
            self.is_told, self.told = False, ""
        if role == "user":
            self.turns, self.asked = self.turns + 1, texts

    def offer(self, tools, choice):
        """Takes the tools on offer: the first is called, unless one has just answered."""
        named = choice.get("name") or choice.get("function", {}).get("name") if choice else None
        wanted = [tool for tool in tools if named in {None, tool[0]}]
        if wanted and (named or not self.is_told):
            self.tool = wanted[0]

    @property
    def answer(self):
        """The text of the answer."""
        return self._text if self.schema is None else self._fill(self.schema)

    @property
    def arguments(self):
        """What the tool is called with."""
        return self._fill(self.tool[1])

    @property
    def _text(self):
        return says(len(self.pictures), self.turns, self.told)

    def _fill(self, schema):
        return json.dumps(example(schema, self._text, len(self.pictures)))


def example(schema, text, number, root=None):
    """A value that a schema allows: every string is `text`, every number `number`."""
    root = root or schema
    if "$ref" in schema:
        target = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        return example(target, text, number, root)
    for several in ("anyOf", "allOf", "oneOf", "enum"):
        if several in schema:
            first = schema[several][0]
            return first if several == "enum" else example(first, text, number, root)
    kind = schema.get("type", "object")
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: example(value, text, number, root) for name, value in fields.items()}
    return {"string": text, "integer": number, "number": number, "boolean": True, "array": []}[kind]


def pieces(text):
    """A text as it is streamed: word by word."""
    return [word if index == 0 else f" {word}" for index, word in enumerate(text.split(" "))]


def data_of(url):
    """The base64 of a data URL."""
    scheme, _, data = url.partition(",")
    if not scheme.startswith("data:image/"):
        raise Refusal(400, "invalid_request_error", "remote_image", f"I do not fetch {url[:40]}.")
    return data


class Refusal(Exception):
    """An error that the client is told: status, type, code, message."""


CHAT_USAGE = {
    "prompt_tokens": TOKENS["input"],
    "completion_tokens": TOKENS["output"],
    "total_tokens": sum(TOKENS.values()),
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


class ChatProtocol:
    """POST /v1/chat/completions."""

    path = "/v1/chat/completions"

    def read(self, document):
        """The question of a request."""
        question = Question()
        for message in document["messages"]:
            content = message.get("content") or ""
            parts = [("text", content)] if isinstance(content, str) else map(self._part, content)
            question.hear(message["role"], parts)
        tools = [tool["function"] for tool in document.get("tools", []) if "function" in tool]
        choice = document.get("tool_choice", "auto")
        if choice != "none":
            offered = [(tool["name"], tool.get("parameters", {})) for tool in tools]
            question.offer(offered, choice if isinstance(choice, dict) else None)
        form = document.get("response_format") or {}
        question.schema = form.get("json_schema", {}).get("schema")
        return question

    @staticmethod
    def _part(part):
        if part["type"] == "image_url":
            return "picture", data_of(part["image_url"]["url"])
        return "text", part.get("text", "")

    def _message(self, question, number):
        # vLLM's names for what a model thought, and OpenAI's for what nobody asked for.
        message = {
            "role": "assistant",
            "content": question.answer,
            "refusal": None,
            "annotations": [],
            "reasoning_content": THOUGHT,
        }
        if question.tool is None:
            return message, "stop"
        function = {"name": question.tool[0], "arguments": question.arguments}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        return message | {"content": None, "tool_calls": [call]}, "tool_calls"

    def _head(self, document, number, kind):
        return {
            "id": f"chatcmpl-{number}",
            "object": kind,
            "created": CREATED,
            "model": document["model"],
            "service_tier": "default",
            "system_fingerprint": "fp_1",
        }

    def whole(self, document, question, number):
        """The answer in one piece."""
        message, reason = self._message(question, number)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        head = self._head(document, number, "chat.completion")
        return head | {"choices": [choice], "usage": CHAT_USAGE}

    def events(self, document, question, number):
        """The answer's events: names, which this protocol has none of, and data."""
        message, reason = self._message(question, number)
        wants_usage = (document.get("stream_options") or {}).get("include_usage")
        head = self._head(document, number, "chat.completion.chunk")
        if wants_usage:
            head["usage"] = None

        def chunk(delta, reason=None):
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
            return None, head | {"choices": [choice]}

        yield chunk({"role": "assistant", "content": "", "refusal": None})
        yield chunk({"reasoning_content": THOUGHT})
        for index, call in enumerate(message.get("tool_calls", [])):
            function = call["function"]
            opened = call | {"index": index, "function": function | {"arguments": ""}}
            yield chunk({"tool_calls": [opened]})
            for piece in pieces(function["arguments"]):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        for piece in pieces(message["content"]) if message["content"] else ():
            yield chunk({"content": piece})
        yield chunk({}, reason)
        if wants_usage:
            yield None, head | {"choices": [], "usage": CHAT_USAGE}
        yield None, "[DONE]"

    @staticmethod
    def error(kind, code, message):
        """The body of an error."""
        return {"error": {"message": message, "type": kind, "param": "model", "code": code}}

    def broken(self, number):
        """The event that ends a stream early."""
        return None, self.error("server_error", "server_error", "The model broke.")


class ResponsesProtocol:
    """POST /v1/responses, which remembers what it was asked and what it answered."""

    path = "/v1/responses"

    def __init__(self):
        self._items = {}
        self._conversations = {}

    def read(self, document):
        """The question of a request."""
        question = Question()
        asked = document["input"]
        items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        items = [*self._earlier(document), *map(self._recall, items)]
        document["_items"] = items
        for item in items:
            if "role" in item:
                question.hear(item["role"], self._parts(item["content"]))
            elif item["type"] == "function_call_output":
                question.hear("tool", self._parts(item["output"]))
        choice = document.get("tool_choice", "auto")
        tools = [tool for tool in document.get("tools") or [] if tool["type"] == "function"]
        if choice != "none":
            offered = [(tool["name"], tool.get("parameters") or {}) for tool in tools]
            question.offer(offered, choice if isinstance(choice, dict) else None)
        question.schema = (document.get("text") or {}).get("format", {}).get("schema")
        return question

    def _earlier(self, document):
        name = document.get("previous_response_id")
        if name is None:
            return []
        if name not in self._conversations:
            message = f"There is no response `{name}`."
            raise Refusal(400, "invalid_request_error", "previous_response_not_found", message)
        return self._conversations[name]

    def _recall(self, item):
        if item.get("type") != "item_reference":
            return item
        if item["id"] not in self._items:
            raise Refusal(404, "invalid_request_error", "item_not_found", f"No item {item['id']}.")
        return self._items[item["id"]]

    @staticmethod
    def _parts(content):
        if isinstance(content, str):
            return [("text", content)]
        return [
            ("picture", data_of(part["image_url"]))
            if part["type"] == "input_image"
            else ("text", part.get("text", ""))
            for part in content
        ]

    def _output(self, document, question, number):
        thought = {"id": f"rs_{number}", "type": "reasoning", "summary": []}
        if "reasoning.encrypted_content" in (document.get("include") or []):
            thought["encrypted_content"] = SEALED
        if question.tool is not None:
            said = {
                "id": f"fc_{number}",
                "type": "function_call",
                "status": "completed",
                "call_id": f"call_{number}",
                "name": question.tool[0],
                "arguments": question.arguments,
            }
        else:
            text = {"type": "output_text", "text": question.answer}
            said = {
                "id": f"msg_{number}",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [text | {"annotations": [], "logprobs": []}],
            }
        return [thought, said]

    def _response(self, document, number, output, status):
        usage = {
            "input_tokens": TOKENS["input"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": TOKENS["output"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sum(TOKENS.values()),
        }
        echoed = {
            "instructions": None,
            "max_output_tokens": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": True,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "user": None,
        }
        return (
            echoed
            | {name: document[name] for name in echoed if name in document}
            | {
                "id": f"resp_{number}",
                "object": "response",
                "created_at": CREATED,
                "status": status,
                "background": False,
                "error": None,
                "incomplete_details": None,
                "model": document["model"],
                "output": output,
                "service_tier": "default",
                "usage": usage if status == "completed" else None,
            }
        )

    def whole(self, document, question, number):
        """The answer in one piece."""
        output = self._output(document, question, number)
        self._keep(document, output, number)
        return self._response(document, number, output, "completed")

    def _keep(self, document, output, number):
        if document.get("store", True):
            self._items |= {item["id"]: item for item in output}
            self._conversations[f"resp_{number}"] = [*document["_items"], *output]

    def events(self, document, question, number):
        """The answer's events: names and data."""
        output = self._output(document, question, number)
        begun = self._response(document, number, [], "in_progress")
        steps = itertools.chain(
            [
                ("response.created", {"response": begun}),
                ("response.in_progress", {"response": begun}),
            ],
            *(self._item_events(index, item) for index, item in enumerate(output)),
            [("response.completed", {"response": self.whole(document, question, number)})],
        )
        for sequence, (name, fields) in enumerate(steps):
            yield name, {"type": name, "sequence_number": sequence} | fields

    def _item_events(self, index, item):
        place = {"output_index": index}
        empty = {"content": []} if item["type"] == "message" else {"arguments": ""}
        opened = item if item["type"] == "reasoning" else item | empty | {"status": "in_progress"}
        yield "response.output_item.added", place | {"item": opened}
        inside = place | {"item_id": item["id"]}
        if item["type"] == "function_call":
            for piece in pieces(item["arguments"]):
                yield "response.function_call_arguments.delta", inside | {"delta": piece}
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield "response.function_call_arguments.done", inside | done
        elif item["type"] == "message":
            yield from self._text_events(inside | {"content_index": 0}, item["content"][0])
        yield "response.output_item.done", place | {"item": item}

    @staticmethod
    def _text_events(place, part):
        yield "response.content_part.added", place | {"part": part | {"text": ""}}
        for piece in pieces(part["text"]):
            yield "response.output_text.delta", place | {"delta": piece, "logprobs": []}
        yield "response.output_text.done", place | {"text": part["text"], "logprobs": []}
        yield "response.content_part.done", place | {"part": part}

    error = staticmethod(ChatProtocol.error)

    def broken(self, number):
        """The event that ends a stream early."""
        fields = {"code": "server_error", "message": "The model broke.", "param": None}
        return "error", {"type": "error", "sequence_number": number} | fields


class MessagesProtocol:
    """POST /v1/messages."""

    path = "/v1/messages"

    def read(self, document):
        """The question of a request."""
        question = Question(thinks=(document.get("thinking") or {}).get("type") == "enabled")
        for message in document["messages"]:
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            spoken = [block for block in blocks if block["type"] != "tool_result"]
            if spoken:
                question.hear(message["role"], map(self._part, spoken))
            for block in blocks:
                if block["type"] == "tool_result":
                    told = block.get("content") or ""
                    parts = [{"type": "text", "text": told}] if isinstance(told, str) else told
                    question.hear("tool", map(self._part, parts))
        choice = document.get("tool_choice") or {}
        tools = [tool for tool in document.get("tools") or [] if "input_schema" in tool]
        if choice.get("type") != "none":
            offered = [(tool["name"], tool["input_schema"]) for tool in tools]
            question.offer(offered, choice if choice.get("type") == "tool" else None)
        form = document.get("output_format") or (document.get("output_config") or {}).get("format")
        question.schema = (form or {}).get("schema")
        return question

    @staticmethod
    def _part(block):
        if block["type"] != "image":
            return "text", block.get("text", "")
        source = block["source"]
        if source["type"] != "base64":
            raise Refusal(400, "invalid_request_error", None, "I do not fetch pictures.")
        return "picture", source["data"]

    def _blocks(self, question, number):
        blocks = [{"type": "text", "text": question.answer}]
        if question.tool is not None:
            use = {"type": "tool_use", "id": f"toolu_{number}", "name": question.tool[0]}
            blocks = [use | {"input": json.loads(question.arguments)}]
        if question.thinks:
            blocks.insert(0, {"type": "thinking", "thinking": THOUGHT, "signature": SEALED})
        return blocks, "end_turn" if question.tool is None else "tool_use"

    def _head(self, document, number):
        usage = {
            "input_tokens": TOKENS["input"],
            "output_tokens": TOKENS["output"],
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "service_tier": "standard",
        }
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": document["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def whole(self, document, question, number):
        """The answer in one piece."""
        blocks, reason = self._blocks(question, number)
        return self._head(document, number) | {"content": blocks, "stop_reason": reason}

    def events(self, document, question, number):
        """The answer's events: names and data."""
        blocks, reason = self._blocks(question, number)
        yield self._event("message_start", message=self._head(document, number))
        for index, block in enumerate(blocks):
            empty = {"text": "", "thinking": "", "signature": "", "input": {}}
            opened = {name: empty.get(name, value) for name, value in block.items()}
            yield self._event("content_block_start", index=index, content_block=opened)
            yield self._event("ping")
            for delta in self._deltas(block):
                yield self._event("content_block_delta", index=index, delta=delta)
            yield self._event("content_block_stop", index=index)
        delta = {"stop_reason": reason, "stop_sequence": None}
        yield self._event("message_delta", delta=delta, usage={"output_tokens": TOKENS["output"]})
        yield self._event("message_stop")

    @staticmethod
    def _event(name, **fields):
        return name, {"type": name} | fields

    @staticmethod
    def _deltas(block):
        if block["type"] == "text":
            return [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        if block["type"] == "tool_use":
            text = json.dumps(block["input"])
            return [{"type": "input_json_delta", "partial_json": part} for part in pieces(text)]
        thought = {"type": "thinking_delta", "thinking": block["thinking"]}
        return [thought, {"type": "signature_delta", "signature": block["signature"]}]

    @staticmethod
    def error(kind, _, message):
        """The body of an error."""
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "r"}

    def broken(self, _):
        """The event that ends a stream early."""
        return "error", self.error("overloaded_error", None, "The model broke.")


class Model:
    """The `reply` of a `FakeUpstream`: answers every protocol, and judges what it was sent.

    Attributes:
        complaints: What was wrong with the pictures that came.
        num_pictures: How many came.
    """

    def __init__(self, api_key, key, owner, originals):
        """Takes what to judge by.

        Args:
            api_key: That it is asked with.
            key: Of the purifier's signatures; none where no purifier stands before the model.
            owner: Of the pictures.
            originals: The base64 of the pictures as they are sent, which must not arrive.
        """
        self._credentials = {f"Bearer {api_key}", api_key}
        self._key = key
        self._owner = owner
        self._originals = originals
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        protocols = (ChatProtocol(), ResponsesProtocol(), MessagesProtocol())
        self._protocols = {protocol.path: protocol for protocol in protocols}
        self.complaints = []
        self.num_pictures = 0

    def verdict(self):
        """What is wrong: nothing, if pictures came and all were right."""
        none = [] if self.num_pictures else ["no picture arrived"]
        return tuple(dict.fromkeys([*self.complaints, *none]))

    def __call__(self, handler, document):
        """Answers one request."""
        path = handler.path.partition("?")[0]
        if path == "/v1/messages/count_tokens":
            self._send(handler, {"input_tokens": TOKENS["input"]})
            return
        if path not in self._protocols:
            self._send(handler, ChatProtocol.error("e", "not_found", f"No {path} here."), 404)
            return
        protocol = self._protocols[path]
        try:
            self._answer(handler, protocol, document)
        except Refusal as refusal:
            status, *what = refusal.args
            self._send(handler, protocol.error(*what), status, [("retry-after", "7")])

    def _answer(self, handler, protocol, document):
        shown = {handler.headers.get("authorization"), handler.headers.get("x-api-key")}
        if not shown & self._credentials:
            raise Refusal(401, "authentication_error", "invalid_api_key", "That is no key of mine.")
        question = protocol.read(document)
        mishap = question.asked.partition("mishap ")[2]
        if mishap in MISHAPS:
            raise Refusal(*MISHAPS[mishap])
        number = f"{next(self._numbers):06}"
        with self._lock:
            self._judge(question, json.dumps(document))
        if not document.get("stream"):
            self._send(handler, protocol.whole(document, question, number))
            return
        events = protocol.events(document, question, number)
        if mishap == BREAKS:
            events = [*itertools.islice(events, 3), protocol.broken(3)]
        handler.begin_stream()
        for name, data in events:
            head = f"event: {name}\n" if name else ""
            text = data if isinstance(data, str) else json.dumps(data)
            handler.wfile.write(f"{head}data: {text}\n\n".encode())
        handler.close_connection = True

    def _judge(self, question, text):
        if self._key and any(original in text for original in self._originals):
            self.complaints.append("an original arrived")
        self.num_pictures += len(question.pictures)
        for data in question.pictures:
            pixels = pixels_of(base64.b64decode(data))
            if self._key and read_signature(pixels, self._key) is None:
                self.complaints.append("a picture was not purified")
            if read_canary(pixels)[0] != self._owner:
                self.complaints.append("a picture of another client")

    @staticmethod
    def _send(handler, document, status=200, headers=()):
        headers = [*headers, ("x-request-id", "req-of-the-model")]
        handler.send(json.dumps(document).encode(), "application/json", status, headers)
