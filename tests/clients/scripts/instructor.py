"""Instructor, which has models fill in a Pydantic model, over three protocols."""

import base64
import json
from types import MappingProxyType

import anthropic
import instructor
import openai
from play import raised
from pydantic import BaseModel


class Seen(BaseModel):
    """What is in the picture."""

    name: str
    count: int


def encode(picture):
    return base64.b64encode(picture).decode()


class Chat:
    """`instructor.from_openai` in its modes for chat completions."""

    name = "gpt-5-mini"
    library = openai
    modes = (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA)
    fields = MappingProxyType({})

    def __init__(self, case):
        self.case = case

    def connect(self, mode, key):
        url = f"{self.case.url}/v1"
        client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)
        return instructor.from_openai(client, mode=mode)

    def fill(self, *messages, mode=None, key=None, function="create", **fields):
        client = self.connect(mode or self.modes[0], key or self.case.key)
        given = {"response_model": Seen, "max_retries": 0, **self.fields, **fields}
        create = getattr(client.chat.completions, function)
        return create(model=self.name, messages=list(messages), **given)

    def user(self, *pictures):
        parts = [instructor.Image.from_raw_base64(data) for data in map(encode, pictures)]
        return {"role": "user", "content": [self.case.question, *parts]}

    def seen(self, pictures=0, turns=1):
        return {"name": self.case.says(pictures, turns), "count": pictures}

    @staticmethod
    def sentence(error):
        return cause_of(error, openai.APIStatusError).body["message"]

    def chat(self):
        for mode in self.modes:
            seen = self.fill({"role": "user", "content": "hi"}, mode=mode)
            assert seen.model_dump() == self.seen(), mode
            assert seen._raw_response.model == self.name

    def stream(self):
        user = self.user(self.case.pictures[0])
        *_, last = self.fill(user, function="create_partial")
        assert last.model_dump() == self.seen(1)

    def images(self):
        for mode in self.modes:
            seen = self.fill(self.user(*self.case.pictures), mode=mode)
            assert seen.model_dump() == self.seen(2), mode

    def tools(self):
        seen, answer = self.fill(
            self.user(self.case.pictures[0]), function="create_with_completion"
        )
        assert seen.model_dump() == self.seen(1)
        assert self.arguments(answer) == self.seen(1)

    @staticmethod
    def arguments(answer):
        (call,) = answer.choices[0].message.tool_calls
        return json.loads(call.function.arguments)

    def errors(self):
        def ask(prompt, **fields):
            return lambda: self.fill({"role": "user", "content": prompt}, **fields)

        kinds = (
            (self.library.NotFoundError, ask(self.case.missing)),
            (self.library.BadRequestError, ask(self.case.too_long)),
            (self.library.RateLimitError, ask(self.case.busy)),
            (self.library.AuthenticationError, ask("hi", key="sk-of-nobody")),
        )
        for kind, asking in kinds:
            cause_of(raised(Exception, asking), kind)

    def second_turns(self):
        first = {"role": "assistant", "content": self.case.says(pictures=1)}
        sure = {"role": "user", "content": "Sure?"}
        for mode in self.modes:
            seen = self.fill(self.user(self.case.pictures[0]), first, sure, mode=mode)
            assert seen.model_dump() == self.seen(1, turns=2), mode

    def refusals(self):
        remote = instructor.Image.from_url(self.case.remote_url)
        ask = {"role": "user", "content": [self.case.question, remote]}
        yield "a picture elsewhere", lambda: self.fill(ask)


class Responses(Chat):
    """`instructor.from_openai` in its mode for Responses."""

    modes = (instructor.Mode.RESPONSES_TOOLS,)

    @staticmethod
    def arguments(answer):
        return json.loads(answer.output[-1].arguments)


class Messages(Chat):
    """`instructor.from_anthropic`."""

    name = "claude-sonnet-5-5"
    library = anthropic
    modes = (instructor.Mode.ANTHROPIC_TOOLS,)
    fields = MappingProxyType({"max_tokens": 1024})

    def connect(self, mode, key):
        client = anthropic.Anthropic(base_url=self.case.url, api_key=key, max_retries=0, timeout=60)
        return instructor.from_anthropic(client, mode=mode)

    @staticmethod
    def arguments(answer):
        return answer.content[-1].input

    def refusals(self):
        # Instructor fetches pictures itself for Anthropic.
        return ()


def cause_of(error, kind):
    """The exception of the client below, which Instructor wraps."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    assert error is not None, f"no {kind.__name__}"
    return error


ROWS = {"chat": Chat, "responses": Responses, "messages": Messages}
