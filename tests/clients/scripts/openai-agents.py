"""OpenAI's agents, over Responses, which is their default, and over chat completions."""

import base64

import agents
import openai
from play import raised
from pydantic import BaseModel

MODEL = "gpt-5-mini"


class Seen(BaseModel):
    """What is in the picture."""

    name: str
    count: int


class Responses:
    """The runner with the client set, as the documentation has it."""

    api = "responses"

    def __init__(self, case):
        self.case = case
        agents.set_tracing_disabled(True)
        agents.set_default_openai_api(self.api)
        self.connect(case.key)

    def connect(self, key):
        url = f"{self.case.url}/v1"
        client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)
        agents.set_default_openai_client(client, use_for_tracing=False)

    def agent(self, **fields):
        return agents.Agent(name="a", instructions="Be brief.", model=MODEL, **fields)

    def question(self, *pictures):
        urls = [f"data:image/png;base64,{base64.b64encode(p).decode()}" for p in pictures]
        parts = [{"type": "input_image", "image_url": url, "detail": "auto"} for url in urls]
        return [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": self.case.question}, *parts],
            }
        ]

    @staticmethod
    def sentence(error):
        assert isinstance(error, openai.APIStatusError), error
        return error.body["message"]

    async def chat(self):
        result = await agents.Runner.run(self.agent(), "hi")
        assert result.final_output == self.case.says()
        assert result.context_wrapper.usage.input_tokens == self.case.input_tokens

    async def stream(self):
        result = agents.Runner.run_streamed(self.agent(), self.question(self.case.pictures[0]))
        deltas = [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]
        assert "".join(deltas) == self.case.says(pictures=1)
        assert result.final_output == self.case.says(pictures=1)

    async def images(self):
        question = self.question(*self.case.pictures)
        result = await agents.Runner.run(self.agent(), question)
        assert result.final_output == self.case.says(pictures=2)
        result = await agents.Runner.run(self.agent(output_type=Seen), question)
        assert result.final_output == Seen(name=self.case.says(pictures=2), count=2)

    async def tools(self):
        seen = []

        @agents.function_tool
        def look(where: str) -> str:
            """Looks somewhere."""
            seen.append(where)
            return self.case.told

        agent, question = self.agent(tools=[look]), self.question(self.case.pictures[0])
        answer = self.case.says(pictures=1, told=self.case.told)
        assert (await agents.Runner.run(agent, question)).final_output == answer
        result = agents.Runner.run_streamed(agent, question)
        assert [event async for event in result.stream_events()]
        assert result.final_output == answer
        assert seen == [self.case.says(pictures=1)] * 2
        await self.look_at_more()

    async def look_at_more(self):
        """A tool that returns a picture."""
        data = base64.b64encode(self.case.pictures[1]).decode()

        @agents.function_tool
        def look(where: str) -> agents.ToolOutputImage:
            """Looks somewhere."""
            return agents.ToolOutputImage(image_url=f"data:image/png;base64,{data}")

        result = await agents.Runner.run(self.agent(tools=[look]), "hi")
        assert result.final_output == self.case.says(pictures=1)

    def errors(self):
        def ask(prompt):
            return lambda: agents.Runner.run_sync(self.agent(), prompt)

        case = self.case
        missing = raised(openai.NotFoundError, ask(case.missing))
        too_long = raised(openai.BadRequestError, ask(case.too_long))
        busy = raised(openai.RateLimitError, ask(case.busy))
        assert missing.code == "model_not_found"
        assert too_long.code == "context_length_exceeded"
        assert busy.code == "rate_limit_exceeded"
        self.connect("sk-of-nobody")
        raised(openai.AuthenticationError, ask("hi"))

    async def second_turns(self):
        agent = self.agent()
        first = await agents.Runner.run(agent, self.question(self.case.pictures[0]))
        again = [*first.to_input_list(), {"role": "user", "content": "Sure?"}]
        seen = self.case.says(pictures=1, turns=2)
        assert (await agents.Runner.run(agent, again)).final_output == seen
        session = agents.SQLiteSession("s")
        merge = agents.RunConfig(session_input_callback=lambda old, new: old + new)
        await agents.Runner.run(
            agent, self.question(self.case.pictures[0]), session=session, run_config=merge
        )
        second = await agents.Runner.run(agent, "Sure?", session=session)
        assert second.final_output == seen

    def refusals(self):
        def ask(*parts):
            return lambda: agents.Runner.run(self.agent(), [{"role": "user", "content": [*parts]}])

        url = self.case.remote_url
        yield (
            "a picture elsewhere",
            ask({"type": "input_image", "image_url": url, "detail": "auto"}),
        )
        if self.api == "responses":
            search = self.agent(tools=[agents.WebSearchTool()])
            yield "web search", lambda: agents.Runner.run(search, "hi")


class Chat(Responses):
    """The same over chat completions."""

    api = "chat_completions"

    async def look_at_more(self):
        """Chat completions have no place for a picture in what a tool says."""


ROWS = {"responses": Responses, "chat": Chat}
