"""LiteLLM's library, over three protocols."""

import base64
import json

import litellm
from litellm import exceptions
from play import raised

PARAMETERS = {
    "type": "object",
    "properties": {"where": {"type": "string"}},
    "required": ["where"],
}


def data_url(picture):
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


class Chat:
    """`completion("openai/…")`."""

    name = "openai/gpt-5-mini"
    path = "/v1"

    def __init__(self, case):
        self.case = case

    def ask(self, content, *, key=None, **fields):
        messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
        return litellm.completion(
            model=self.name,
            messages=messages,
            api_base=self.case.url + self.path,
            api_key=key or self.case.key,
            num_retries=0,
            **fields,
        )

    def user(self, *pictures):
        parts = [{"type": "image_url", "image_url": {"url": data_url(p)}} for p in pictures]
        return {"role": "user", "content": [{"type": "text", "text": self.case.question}, *parts]}

    def text_of(self, chunks):
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    @staticmethod
    def sentence(error):
        assert isinstance(error, exceptions.BadRequestError), error
        return error.message

    def chat(self):
        answer = self.ask([{"role": "system", "content": "Be brief."}, self.user()])
        assert isinstance(answer, litellm.ModelResponse)
        assert answer.choices[0].message.content == self.case.says()
        assert answer.usage.prompt_tokens == self.case.input_tokens

    def stream(self):
        chunks = list(self.ask([self.user(self.case.pictures[0])], stream=True))
        assert self.text_of(chunks) == self.case.says(pictures=1)

    def images(self):
        answer = self.ask([self.user(*self.case.pictures)])
        assert answer.choices[0].message.content == self.case.says(pictures=2)

    def tools(self):
        fields = {
            "tools": [{"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}]
        }
        ask = [self.user(self.case.pictures[0])]
        message = self.ask(ask, **fields).choices[0].message
        (call,) = message.tool_calls
        assert json.loads(call.function.arguments) == {"where": self.case.says(pictures=1)}
        result = {"role": "tool", "tool_call_id": call.id, "content": self.case.told}
        answer = self.ask([*ask, message, result], **fields)
        told = self.case.says(pictures=1, told=self.case.told)
        assert answer.choices[0].message.content == told
        whole = litellm.stream_chunk_builder(list(self.ask(ask, stream=True, **fields)))
        (call,) = whole.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"where": self.case.says(pictures=1)}

    def errors(self):
        case = self.case
        raised(exceptions.NotFoundError, lambda: self.ask(case.missing))
        raised(exceptions.BadRequestError, lambda: self.ask(case.too_long))
        raised(exceptions.RateLimitError, lambda: self.ask(case.busy))
        raised(exceptions.AuthenticationError, lambda: self.ask("hi", key="sk-of-nobody"))

    def second_turns(self):
        ask, sure = self.user(self.case.pictures[0]), {"role": "user", "content": "Sure?"}
        first = self.ask([ask]).choices[0].message
        seen = self.case.says(pictures=1, turns=2)
        assert self.ask([ask, first, sure]).choices[0].message.content == seen
        again = self.ask([ask, first.model_dump(), sure], stream=True)
        assert self.text_of(again) == seen

    def refusals(self):
        part = {"type": "image_url", "image_url": {"url": self.case.remote_url}}
        yield "a picture elsewhere", lambda: self.ask([{"role": "user", "content": [part]}])


class Messages(Chat):
    """`completion("anthropic/…")`."""

    name = "anthropic/claude-sonnet-5-5"
    path = ""


class Responses(Chat):
    """`responses("openai/…")`."""

    def ask(self, content, *, key=None, **fields):
        return litellm.responses(
            model=self.name,
            input=content,
            api_base=f"{self.case.url}/v1",
            api_key=key or self.case.key,
            num_retries=0,
            **fields,
        )

    def user(self, *pictures):
        parts = [{"type": "input_image", "image_url": data_url(p)} for p in pictures]
        text = {"type": "input_text", "text": self.case.question}
        return {"role": "user", "content": [text, *parts]}

    def chat(self):
        answer = self.ask("hi", instructions="Be brief.")
        assert answer.output_text == self.case.says()
        assert answer.usage.input_tokens == self.case.input_tokens

    def stream(self):
        events = list(self.ask([self.user(self.case.pictures[0])], stream=True))
        deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
        assert "".join(deltas) == self.case.says(pictures=1)
        assert events[-1].response.output_text == self.case.says(pictures=1)

    def images(self):
        answer = self.ask([self.user(*self.case.pictures)])
        assert answer.output_text == self.case.says(pictures=2)

    def tools(self):
        function = {"type": "function", "name": "look", "parameters": PARAMETERS}
        ask = [self.user(self.case.pictures[0])]
        first = self.ask(ask, tools=[function])
        call = first.output[-1]
        assert json.loads(call.arguments) == {"where": self.case.says(pictures=1)}
        told = {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": self.case.told,
        }
        items = [item.model_dump(exclude_none=True) for item in first.output]
        answer = self.ask([*ask, *items, told], tools=[function])
        assert answer.output_text == self.case.says(pictures=1, told=self.case.told)

    def second_turns(self):
        ask, sure = self.user(self.case.pictures[0]), {"role": "user", "content": "Sure?"}
        items = [item.model_dump(exclude_none=True) for item in self.ask([ask]).output]
        seen = self.case.says(pictures=1, turns=2)
        assert self.ask([ask, *items, sure]).output_text == seen

    def refusals(self):
        part = {"type": "input_image", "image_url": self.case.remote_url}
        yield "a picture elsewhere", lambda: self.ask([{"role": "user", "content": [part]}])


ROWS = {"chat": Chat, "responses": Responses, "messages": Messages}
