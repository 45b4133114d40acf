"""OpenAI's client for Python."""

import base64
import contextlib
import json

import openai
from openai.types.chat import ChatCompletion
from openai.types.responses import Response, ResponseErrorEvent, ResponseFailedEvent
from play import raised

MODEL = "gpt-5-mini"
PARAMETERS = {
    "type": "object",
    "properties": {"where": {"type": "string"}},
    "required": ["where"],
    "additionalProperties": False,
}


def data_url(picture):
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


class _Row:
    def __init__(self, case):
        self.case = case
        url, key = f"{case.url}/v1", case.key
        self.client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)

    @staticmethod
    def sentence(error):
        assert isinstance(error, openai.APIStatusError), error
        return error.body["message"]

    def errors(self):
        case = self.case
        missing = raised(openai.NotFoundError, lambda: self.ask(case.missing))
        too_long = raised(openai.BadRequestError, lambda: self.ask(case.too_long))
        busy = raised(openai.RateLimitError, lambda: self.ask(case.busy))
        assert busy.request_id or case.gateway
        if not case.gateway:
            assert missing.code == "model_not_found"
            assert too_long.code == "context_length_exceeded"
            assert busy.code == "rate_limit_exceeded"
            assert busy.response.headers["retry-after"] == "7"
        stranger = self.client.with_options(api_key="sk-of-nobody")
        # LiteLLM's proxy looks for a key that is not its own in a database, and has none here.
        before = case.gateway == "before"
        unknown = openai.BadRequestError if before else openai.AuthenticationError
        raised(unknown, lambda: self.ask("hi", client=stranger))
        raised(openai.NotFoundError, lambda: self.ask(case.missing, stream=True))
        self.breaks()


class Chat(_Row):
    def ask(self, content, *, client=None, **fields):
        messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
        create = (client or self.client).chat.completions.create
        return create(model=MODEL, messages=messages, **fields)

    def user(self, *pictures):
        parts = [{"type": "image_url", "image_url": {"url": data_url(p)}} for p in pictures]
        return {"role": "user", "content": [{"type": "text", "text": self.case.question}, *parts]}

    def chat(self):
        developer = {"role": "developer", "content": "Be brief."}
        answer = self.ask([developer, self.user()], max_completion_tokens=50, user="u-1")
        assert isinstance(answer, ChatCompletion)
        assert answer.model == MODEL
        assert answer.choices[0].message.content == self.case.says()
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.total_tokens == self.case.input_tokens + self.case.output_tokens

    def stream(self):
        chunks = list(self.ask([self.user(self.case.pictures[0])], stream=True))
        # As the client's own examples read it: the first choice, unseen.
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == self.case.says(pictures=1)
        assert chunks[-1].choices[0].finish_reason == "stop"
        options = {"include_usage": True}
        last = list(self.ask("hi", stream=True, stream_options=options))[-1]
        assert last.usage.completion_tokens == self.case.output_tokens
        with self.client.chat.completions.stream(model=MODEL, messages=[self.user()]) as stream:
            assert stream.get_final_completion().choices[0].message.content == self.case.says()

    def images(self):
        answer = self.ask([self.user(*self.case.pictures)])
        assert answer.choices[0].message.content == self.case.says(pictures=2)
        system = {"role": "system", "content": "Be brief."}
        answer = self.ask([system, self.user(self.case.pictures[0]), self.user()])
        assert answer.choices[0].message.content == self.case.says(pictures=1, turns=2)

    def tools(self):
        function = {"name": "look", "parameters": PARAMETERS, "strict": True}
        fields = {"tools": [{"type": "function", "function": function}]}
        ask = [self.user(self.case.pictures[0])]
        message = self.ask(ask, **fields).choices[0].message
        (call,) = message.tool_calls
        assert json.loads(call.function.arguments) == {"where": self.case.says(pictures=1)}
        result = {"role": "tool", "tool_call_id": call.id, "content": self.case.told}
        answer = self.ask([*ask, message, result], **fields).choices[0].message
        assert answer.content == self.case.says(pictures=1, told=self.case.told)
        stream = self.client.chat.completions.stream
        with stream(model=MODEL, messages=ask, **fields) as streamed:
            (call,) = streamed.get_final_completion().choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"where": self.case.says(pictures=1)}

    def breaks(self):
        stream = self.ask(self.case.breaks, stream=True)
        raised(openai.APIError, lambda: list(stream))

    def second_turns(self):
        ask = self.user(self.case.pictures[0])
        for fields in ({}, {"stream": True}):
            first = self.ask([ask]).choices[0].message
            second = self.ask([ask, first, {"role": "user", "content": "Sure?"}], **fields)
            if fields:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in second)
            else:
                text = second.choices[0].message.content
            assert text == self.case.says(pictures=1, turns=2)

    def refusals(self):
        def part(kind, value):
            return lambda: self.ask([{"role": "user", "content": [{"type": kind, kind: value}]}])

        yield "a picture elsewhere", part("image_url", {"url": self.case.remote_url})
        yield "a file's id", part("file", {"file_id": "file-1"})
        yield "a file", part("file", {"filename": "a.pdf", "file_data": "JVBERi0="})
        yield "sound", part("input_audio", {"data": "UklGRg==", "format": "wav"})


class Responses(_Row):
    def ask(self, content, *, client=None, **fields):
        return (client or self.client).responses.create(model=MODEL, input=content, **fields)

    def user(self, *pictures):
        parts = [
            {"type": "input_image", "image_url": data_url(p), "detail": "auto"} for p in pictures
        ]
        text = {"type": "input_text", "text": self.case.question}
        return {"role": "user", "content": [text, *parts]}

    def chat(self):
        answer = self.ask("hi", instructions="Be brief.", max_output_tokens=50)
        assert isinstance(answer, Response)
        assert answer.status == "completed"
        assert answer.model == MODEL
        assert answer.output_text == self.case.says()
        assert answer.usage.total_tokens == self.case.input_tokens + self.case.output_tokens

    def stream(self):
        events = list(self.ask([self.user(self.case.pictures[0])], stream=True))
        deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
        assert "".join(deltas) == self.case.says(pictures=1)
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == self.case.says(pictures=1)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        with self.client.responses.stream(model=MODEL, input="hi") as stream:
            assert stream.get_final_response().output_text == self.case.says()

    def images(self):
        answer = self.ask([self.user(*self.case.pictures)])
        assert answer.output_text == self.case.says(pictures=2)
        answer = self.ask([self.user(self.case.pictures[0]), self.user()])
        assert answer.output_text == self.case.says(pictures=1, turns=2)

    def tools(self):
        function = {"type": "function", "name": "look", "parameters": PARAMETERS, "strict": True}
        ask = [self.user(self.case.pictures[0])]
        first = self.ask(ask, tools=[function])
        call = first.output[-1]
        assert call.type == "function_call"
        assert json.loads(call.arguments) == {"where": self.case.says(pictures=1)}
        seen = [
            {"type": "input_text", "text": self.case.told},
            {"type": "input_image", "image_url": data_url(self.case.pictures[1])},
        ]
        for output, pictures in ((self.case.told, 1), (seen, 2)):
            told = {"type": "function_call_output", "call_id": call.call_id, "output": output}
            answer = self.ask([*ask, *first.output, told], tools=[function])
            assert answer.output_text == self.case.says(pictures=pictures, told=self.case.told)
        with self.client.responses.stream(model=MODEL, input=ask, tools=[function]) as stream:
            call = stream.get_final_response().output[-1]
        assert json.loads(call.arguments) == {"where": self.case.says(pictures=1)}

    def breaks(self):
        # OpenAI's own `error` event is handed on; one with an error object in it is raised.
        with contextlib.suppress(openai.APIError):
            last = list(self.ask(self.case.breaks, stream=True))[-1]
            assert isinstance(last, ResponseErrorEvent | ResponseFailedEvent), last

    def second_turns(self):
        ask, sure = self.user(self.case.pictures[0]), {"role": "user", "content": "Sure?"}
        seen = self.case.says(pictures=1, turns=2)
        first = self.ask([ask])
        assert self.ask([ask, *first.output, sure]).output_text == seen
        sealed = {"store": False, "include": ["reasoning.encrypted_content"]}
        first = self.ask([ask], **sealed)
        assert self.ask([ask, *first.output, sure], **sealed).output_text == seen
        with self.client.responses.stream(model=MODEL, input=[ask, *first.output, sure]) as stream:
            assert stream.get_final_response().output_text == seen

    def refusals(self):
        def part(**fields):
            return lambda: self.ask([{"role": "user", "content": [fields]}])

        def tool(**fields):
            return lambda: self.ask("hi", tools=[fields])

        yield "a picture elsewhere", part(type="input_image", image_url=self.case.remote_url)
        yield "a picture by its id", part(type="input_image", file_id="file-1")
        yield "a file's id", part(type="input_file", file_id="file-1")
        yield "a file", part(type="input_file", filename="a.pdf", file_data="JVBERi0=")
        yield "web search", tool(type="web_search")
        yield "the code interpreter", tool(type="code_interpreter", container={"type": "auto"})
        server = {"server_label": "s", "server_url": "https://mcp.example"}
        yield "an MCP server", tool(type="mcp", **server)
        yield "a stored prompt", lambda: self.ask("hi", prompt={"id": "pmpt_1"})


ROWS = {"chat": Chat, "responses": Responses}
