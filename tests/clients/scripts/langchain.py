"""LangChain's `ChatOpenAI` over both of OpenAI's protocols, and `ChatAnthropic`."""

import base64
from types import MappingProxyType

import anthropic
import openai
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.content import create_image_block, create_text_block
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from play import raised
from pydantic import BaseModel


class Seen(BaseModel):
    """What is in the picture."""

    name: str
    count: int


def block(picture):
    return create_image_block(base64=base64.b64encode(picture).decode(), mime_type="image/png")


class Chat:
    """`ChatOpenAI`."""

    name = "gpt-5-mini"
    library = openai
    fields = MappingProxyType({"stream_usage": True})  # with a base URL, it is off

    def __init__(self, case):
        self.case = case
        self.model = self.connect()

    def connect(self, key=None, **fields):
        return ChatOpenAI(
            model=self.name,
            base_url=f"{self.case.url}/v1",
            api_key=key or self.case.key,
            max_retries=0,
            **self.fields,
            **fields,
        )

    def question(self, *pictures):
        return HumanMessage(
            content_blocks=[create_text_block(self.case.question), *map(block, pictures)]
        )

    @staticmethod
    def sentence(error):
        assert isinstance(error, openai.APIStatusError), error
        return error.body["message"]

    def chat(self):
        answer = self.model.invoke([SystemMessage("Be brief."), self.question()])
        assert isinstance(answer, AIMessage)
        assert answer.text == self.case.says()
        assert answer.usage_metadata["input_tokens"] == self.case.input_tokens

    def stream(self):
        chunks = list(self.model.stream([self.question(self.case.pictures[0])]))
        assert "".join(chunk.text for chunk in chunks) == self.case.says(pictures=1)
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        assert whole.text == self.case.says(pictures=1)
        assert whole.usage_metadata["output_tokens"] == self.case.output_tokens

    def images(self):
        answer = self.model.invoke([self.question(*self.case.pictures)])
        assert answer.text == self.case.says(pictures=2)
        url = f"data:image/png;base64,{base64.b64encode(self.case.pictures[0]).decode()}"
        older = HumanMessage([{"type": "image_url", "image_url": {"url": url}}])
        assert self.model.invoke([older]).text == self.case.says(pictures=1)
        structured = self.model.with_structured_output(Seen)
        seen = structured.invoke([self.question(self.case.pictures[0])])
        assert seen == Seen(name=self.case.says(pictures=1), count=1)

    def tools(self):
        @tool
        def look(where: str) -> str:
            """Looks somewhere."""
            return self.case.told

        bound, question = self.model.bind_tools([look]), self.question(self.case.pictures[0])
        called = bound.invoke([question])
        (call,) = called.tool_calls
        assert call["args"] == {"where": self.case.says(pictures=1)}
        answer = bound.invoke([question, called, look.invoke(call)])
        assert answer.text == self.case.says(pictures=1, told=self.case.told)
        picture = [create_text_block(self.case.told), block(self.case.pictures[1])]
        seen = ToolMessage(content_blocks=picture, tool_call_id=call["id"])
        answer = bound.invoke([question, called, seen])
        assert answer.text == self.case.says(pictures=2, told=self.case.told)
        chunks = list(bound.stream([question]))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        assert whole.tool_calls[0]["args"] == call["args"]

    def errors(self):
        case, errors = self.case, self.library
        raised(errors.NotFoundError, lambda: self.model.invoke(case.missing))
        too_long = raised(errors.BadRequestError, lambda: self.model.invoke(case.too_long))
        assert "9000 tokens" in str(too_long) or case.is_guarded
        raised(errors.RateLimitError, lambda: self.model.invoke(case.busy))
        stranger = self.connect(key="sk-of-nobody")
        raised(errors.AuthenticationError, lambda: stranger.invoke("hi"))

    def second_turns(self):
        question, sure = self.question(self.case.pictures[0]), HumanMessage("Sure?")
        first = self.model.invoke([question])
        seen = self.case.says(pictures=1, turns=2)
        assert self.model.invoke([question, first, sure]).text == seen
        assert "".join(c.text for c in self.model.stream([question, first, sure])) == seen

    def refusals(self):
        remote = HumanMessage([{"type": "image_url", "image_url": {"url": self.case.remote_url}}])
        yield "a picture elsewhere", lambda: self.model.invoke([remote])


class Responses(Chat):
    """`ChatOpenAI(use_responses_api=True)`."""

    fields = MappingProxyType({"use_responses_api": True})


class Messages(Chat):
    """`ChatAnthropic`."""

    name = "claude-sonnet-5-5"
    library = anthropic

    def connect(self, key=None):
        return ChatAnthropic(
            model=self.name,
            base_url=self.case.url,
            api_key=key or self.case.key,
            max_retries=0,
        )

    @staticmethod
    def sentence(error):
        assert isinstance(error, anthropic.APIStatusError), error
        return error.body["error"]["message"]


ROWS = {"chat": Chat, "responses": Responses, "messages": Messages}
