"""LlamaIndex: its models of OpenAI's, over both protocols."""

import openai
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI, OpenAIResponses
from play import raised


class Chat:
    """`OpenAI`."""

    # Its models are those whose context it knows: others are for `OpenAILike`.
    name = "gpt-4o"

    def __init__(self, case):
        self.case = case
        self.model = self.connect()

    def connect(self, key=None, kind=OpenAI):
        url, key = f"{self.case.url}/v1", key or self.case.key
        return kind(model=self.name, api_base=url, api_key=key, max_retries=0)

    def question(self, *pictures):
        images = [ImageBlock(image=picture, image_mimetype="image/png") for picture in pictures]
        return ChatMessage(role="user", blocks=[TextBlock(text=self.case.question), *images])

    @staticmethod
    def sentence(error):
        assert isinstance(error, openai.APIStatusError), error
        return error.body["message"]

    def chat(self):
        system = ChatMessage(role="system", content="Be brief.")
        answer = self.model.chat([system, self.question()])
        assert answer.message.content == self.case.says()

    def stream(self):
        deltas = list(self.model.stream_chat([self.question(self.case.pictures[0])]))
        assert deltas[-1].message.content == self.case.says(pictures=1)
        assert "".join(part.delta or "" for part in deltas) == self.case.says(pictures=1)

    def images(self):
        answer = self.model.chat([self.question(*self.case.pictures)])
        assert answer.message.content == self.case.says(pictures=2)

    def tools(self):
        def look(where: str) -> str:
            """Looks somewhere."""
            return self.case.told

        tool, question = FunctionTool.from_defaults(look), self.question(self.case.pictures[0])
        called = self.model.chat_with_tools([tool], chat_history=[question])
        (call,) = self.model.get_tool_calls_from_response(called)
        assert call.tool_kwargs == {"where": self.case.says(pictures=1)}
        kwargs = {"tool_call_id": call.tool_id}
        result = ChatMessage(role="tool", content=self.case.told, additional_kwargs=kwargs)
        history = [question, called.message, result]
        answer = self.model.chat_with_tools([tool], chat_history=history)
        assert answer.message.content == self.case.says(pictures=1, told=self.case.told)
        *_, last = self.model.stream_chat_with_tools([tool], chat_history=[question])
        assert self.model.get_tool_calls_from_response(last)[0].tool_kwargs == call.tool_kwargs

    def errors(self):
        def ask(prompt, key=None):
            message = ChatMessage(role="user", content=prompt)
            return lambda: self.connect(key).chat([message])

        raised(openai.NotFoundError, ask(self.case.missing))
        raised(openai.BadRequestError, ask(self.case.too_long))
        raised(openai.RateLimitError, ask(self.case.busy))
        raised(openai.AuthenticationError, ask("hi", "sk-of-nobody"))

    def second_turns(self):
        question = self.question(self.case.pictures[0])
        first = self.model.chat([question]).message
        history = [question, first, ChatMessage(role="user", content="Sure?")]
        seen = self.case.says(pictures=1, turns=2)
        assert self.model.chat(history).message.content == seen
        assert list(self.model.stream_chat(history))[-1].message.content == seen

    def refusals(self):
        blocks = [TextBlock(text=self.case.question), ImageBlock(url=self.case.remote_url)]
        remote = ChatMessage(role="user", blocks=blocks)
        yield "a picture elsewhere", lambda: self.model.chat([remote])


class Responses(Chat):
    """`OpenAIResponses`."""

    def connect(self, key=None):
        return super().connect(key, OpenAIResponses)


ROWS = {"chat": Chat, "responses": Responses}
