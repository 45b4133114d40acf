"""Pydantic AI: its agents over three kinds of models; `openai:NAME` is the default one."""

from play import raised
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ImageUrl, ModelHTTPError, ToolReturn
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Seen(BaseModel):
    """What is in the picture."""

    name: str
    count: int


class _Row:
    name = "gpt-5-mini"

    def __init__(self, case):
        self.case = case

    def agent(self, *, key=None, **fields):
        return Agent(self.model(key or self.case.key), retries=0, **fields)

    def question(self, *pictures):
        return [self.case.question, *(BinaryContent(p, media_type="image/png") for p in pictures)]

    @staticmethod
    def sentence(error):
        assert isinstance(error, ModelHTTPError), error
        return error.body["message"]

    def chat(self):
        result = self.agent(instructions="Be brief.").run_sync("hi")
        assert result.output == self.case.says()
        assert result.usage.input_tokens == self.case.input_tokens

    async def stream(self):
        async with self.agent().run_stream(self.question(self.case.pictures[0])) as result:
            pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        assert "".join(pieces) == self.case.says(pictures=1)
        assert len(pieces) > 1
        assert result.usage.output_tokens == self.case.output_tokens

    def images(self):
        result = self.agent().run_sync(self.question(*self.case.pictures))
        assert result.output == self.case.says(pictures=2)
        result = self.agent(output_type=Seen).run_sync(self.question(self.case.pictures[0]))
        assert result.output == Seen(name=self.case.says(pictures=1), count=1)

    async def tools(self):
        seen = []
        agent = self.agent()

        @agent.tool_plain
        def look(where: str) -> ToolReturn:
            """Looks somewhere."""
            seen.append(where)
            return self.case.told

        question = self.question(self.case.pictures[0])
        result = await agent.run(question)
        assert result.output == self.case.says(pictures=1, told=self.case.told)
        async with agent.run_stream(question) as result:
            assert await result.get_output() == self.case.says(pictures=1, told=self.case.told)
        assert seen == [self.case.says(pictures=1)] * 2
        await self._look_at_more()

    async def _look_at_more(self):
        """A tool that returns a picture."""
        agent = self.agent()

        @agent.tool_plain
        def look(where: str):
            """Looks somewhere."""
            return BinaryContent(self.case.pictures[1], media_type="image/png")

        assert (await agent.run(self.case.question)).output.startswith("1 pictures in ")

    def errors(self):
        case = self.case
        for prompt, status in ((case.missing, 404), (case.too_long, 400), (case.busy, 429)):
            error = raised(ModelHTTPError, lambda prompt=prompt: self.agent().run_sync(prompt))
            assert error.status_code == status
            assert self.sentence(error)
        stranger = self.agent(key="sk-of-nobody")
        assert raised(ModelHTTPError, lambda: stranger.run_sync("hi")).status_code == 401

    def second_turns(self):
        agent = self.agent()
        first = agent.run_sync(self.question(self.case.pictures[0]))
        result = agent.run_sync("Sure?", message_history=first.all_messages())
        assert result.output == self.case.says(pictures=1, turns=2)

    def refusals(self):
        remote = ImageUrl(self.case.remote_url)
        yield "a picture elsewhere", lambda: self.agent().run_sync([self.case.question, remote])
        pdf = BinaryContent(b"%PDF-", media_type="application/pdf")
        yield "a file", lambda: self.agent().run_sync([self.case.question, pdf])


class Responses(_Row):
    def model(self, key):
        provider = OpenAIProvider(base_url=f"{self.case.url}/v1", api_key=key)
        return OpenAIResponsesModel(self.name, provider=provider)


class Chat(_Row):
    def model(self, key):
        provider = OpenAIProvider(base_url=f"{self.case.url}/v1", api_key=key)
        return OpenAIChatModel(self.name, provider=provider)


class Messages(_Row):
    name = "claude-sonnet-5-5"

    def model(self, key):
        return AnthropicModel(
            self.name, provider=AnthropicProvider(base_url=self.case.url, api_key=key)
        )

    @staticmethod
    def sentence(error):
        assert isinstance(error, ModelHTTPError), error
        return error.body["error"]["message"]


ROWS = {"responses": Responses, "chat": Chat, "messages": Messages}
