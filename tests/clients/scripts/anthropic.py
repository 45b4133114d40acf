"""Anthropic's client for Python."""

import base64

import anthropic
from anthropic.types import Message
from play import raised

MODEL = "claude-sonnet-5-5"
LOOK = {
    "name": "look",
    "input_schema": {
        "type": "object",
        "properties": {"where": {"type": "string"}},
        "required": ["where"],
    },
}


def image(picture):
    data = base64.b64encode(picture).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"type": "image", "source": source}


def text(words):
    return {"type": "text", "text": words}


class Messages:
    """POST /v1/messages."""

    def __init__(self, case):
        self.case = case
        self.client = anthropic.Anthropic(
            base_url=case.url, api_key=case.key, max_retries=0, timeout=60
        )

    def ask(self, content, *, client=None, **fields):
        return (client or self.client).messages.create(
            model=MODEL, max_tokens=1024, messages=self.messages(content), **fields
        )

    def messages(self, content):
        return [{"role": "user", "content": content}] if isinstance(content, str) else content

    def streamed(self, content, **fields):
        stream = self.client.messages.stream
        with stream(model=MODEL, max_tokens=1024, messages=self.messages(content), **fields) as s:
            pieces = list(s.text_stream)
            return pieces, s.get_final_message()

    def user(self, *pictures):
        return {"role": "user", "content": [*map(image, pictures), text(self.case.question)]}

    @staticmethod
    def sentence(error):
        assert isinstance(error, anthropic.APIStatusError), error
        assert error.body["type"] == "error"
        return error.body["error"]["message"]

    def chat(self):
        answer = self.ask("hi", system="Be brief.", stop_sequences=["###"])
        assert isinstance(answer, Message)
        assert answer.content[0].text == self.case.says()
        assert answer.model == MODEL
        assert answer.stop_reason == "end_turn"
        assert answer.usage.input_tokens == self.case.input_tokens
        count = self.client.messages.count_tokens(model=MODEL, messages=[self.user()])
        assert count.input_tokens > 0

    def stream(self):
        pieces, message = self.streamed([self.user(self.case.pictures[0])])
        assert "".join(pieces) == self.case.says(pictures=1)
        assert len(pieces) > 1
        assert message.stop_reason == "end_turn"
        assert message.usage.output_tokens == self.case.output_tokens
        events = list(self.ask("hi", stream=True))
        assert events[0].type == "message_start"
        assert events[-1].type == "message_stop"

    def images(self):
        answer = self.ask([self.user(*self.case.pictures)])
        assert answer.content[0].text == self.case.says(pictures=2)
        count = self.client.messages.count_tokens
        assert count(model=MODEL, messages=[self.user(*self.case.pictures)]).input_tokens > 0

    def tools(self):
        ask = [self.user(self.case.pictures[0])]
        seen = {"where": self.case.says(pictures=1)}
        first = self.ask(ask, tools=[LOOK])
        assert first.stop_reason == "tool_use"
        assert first.content[-1].input == seen
        told = self.case.told
        for content, pictures in ((told, 1), ([text(told), image(self.case.pictures[1])], 2)):
            result = {"type": "tool_result", "tool_use_id": first.content[-1].id}
            reply = {"role": "user", "content": [result | {"content": content}]}
            messages = [*ask, {"role": "assistant", "content": first.content}, reply]
            answer = self.ask(messages, tools=[LOOK])
            assert answer.content[0].text == self.case.says(pictures=pictures, told=told)
        _, message = self.streamed(ask, tools=[LOOK], tool_choice={"type": "tool", "name": "look"})
        assert message.content[-1].input == seen

    def errors(self):
        case = self.case
        missing = raised(anthropic.NotFoundError, lambda: self.ask(case.missing))
        too_long = raised(anthropic.BadRequestError, lambda: self.ask(case.too_long))
        busy = raised(anthropic.RateLimitError, lambda: self.ask(case.busy))
        if not case.gateway:
            assert missing.body["error"]["type"] == "not_found_error"
            assert too_long.body["error"]["type"] == "invalid_request_error"
            assert busy.body["error"]["type"] == "rate_limit_error"
            assert busy.response.headers["retry-after"] == "7"
        stranger = self.client.with_options(api_key="sk-of-nobody")
        # LiteLLM's proxy looks for a key that is not its own in a database, and has none here.
        before = case.gateway == "before"
        unknown = anthropic.BadRequestError if before else anthropic.AuthenticationError
        raised(unknown, lambda: self.ask("hi", client=stranger))
        raised(anthropic.NotFoundError, lambda: self.ask(case.missing, stream=True))
        raised(anthropic.APIError, lambda: list(self.ask(case.breaks, stream=True)))

    def second_turns(self):
        ask, sure = self.user(self.case.pictures[0]), {"role": "user", "content": "Sure?"}
        seen = self.case.says(pictures=1, turns=2)
        for fields in ({}, {"thinking": {"type": "enabled", "budget_tokens": 1023}}):
            _, first = self.streamed([ask], **fields)
            if fields and not self.case.gateway:
                assert first.content[0].type == "thinking"
            messages = [ask, {"role": "assistant", "content": first.content}, sure]
            assert self.ask(messages, **fields).content[-1].text == seen

    def refusals(self):
        def block(**fields):
            return lambda: self.ask([{"role": "user", "content": [fields]}])

        def tool(**fields):
            return lambda: self.ask("hi", tools=[fields])

        url = {"type": "url", "url": self.case.remote_url}
        pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
        yield "a picture elsewhere", block(type="image", source=url)
        yield "a picture by its id", block(type="image", source={"type": "file", "file_id": "f"})
        yield "a file", block(type="document", source=pdf)
        yield "web search", tool(type="web_search_20250305", name="web_search")
        yield "fetching", tool(type="web_fetch_20250910", name="web_fetch")
        yield "the code interpreter", tool(type="code_execution_20250825", name="code_execution")


ROWS = {"messages": Messages}
