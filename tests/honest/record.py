"""Has real clients talk to a recording model, and keeps what they sent.

    python -m venv /tmp/clients && /tmp/clients/bin/pip install -r tests/honest/clients.txt
    /tmp/clients/bin/python -m tests.honest.record [client ...]

    npm install --prefix /tmp/clients-js openai ai @ai-sdk/openai @ai-sdk/openai-compatible \
        @langchain/openai @langchain/core zod
    NODE_FOLDER=/tmp/clients-js /tmp/clients/bin/python -m tests.honest.record openai_js ...

Every client plays what its own documentation shows: an image, a tool and its result, structured
output, and a second turn with the first one's answer. One file a client, under
tests/service/decode/honest_bodies. Those in JavaScript are in `record.mjs`.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

from tests.honest.recorder import recording

OUT = Path(__file__).parents[1] / "service" / "decode" / "honest_bodies"
# Eight red pixels by eight.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGO8I6LBgA0wYRUdtBIAI8EBEbGlbrcAAAAA"
    "SUVORK5CYII="
)
URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
KEY = "sk-none"
QUESTION = "What is in this picture?"


def play_openai(url):
    import openai
    from pydantic import BaseModel

    class Thing(BaseModel):
        name: str
        count: int

    client = openai.OpenAI(base_url=url, api_key=KEY)
    create = client.chat.completions.create
    image = {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}
    ask = {"role": "user", "content": [{"type": "text", "text": QUESTION}, image]}
    tool = openai.pydantic_function_tool(Thing, name="look", description="Looks again.")
    for model in ("openai", "vllm", "openrouter", "litellm"):
        first = create(
            model=model, messages=[ask], max_tokens=50, temperature=0.2, user="user-1234"
        )
        history = [ask, first.choices[0].message, {"role": "user", "content": "Sure?"}]
        create(model=model, messages=history, stream=True, stream_options={"include_usage": True})
        dumped = first.choices[0].message.model_dump()
        create(model=model, messages=[ask, dumped, {"role": "user", "content": "Sure?"}], n=1)
        called = create(model=model, messages=[ask], tools=[tool], tool_choice="auto")
        call = called.choices[0].message
        result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "A red car."}
        create(model=model, messages=[ask, call, result], tools=[tool], parallel_tool_calls=False)
    client.chat.completions.parse(model="openai", messages=[ask], response_format=Thing)
    with client.chat.completions.stream(model="openai", messages=[ask], tools=[tool]) as stream:
        stream.until_done()
    create(
        model="openai",
        messages=[{"role": "developer", "content": "Be brief."}, ask],
        seed=7,
        logprobs=True,
        top_logprobs=3,
        logit_bias={"50256": -100},
        presence_penalty=0.1,
        frequency_penalty=0.1,
        stop=["\n\n", "###"],
        reasoning_effort="low",
        verbosity="low",
        max_completion_tokens=100,
        store=False,
        metadata={"run": "7"},
        service_tier="auto",
        prompt_cache_key="k",
        safety_identifier="u" * 64,
        modalities=["text"],
        top_p=0.9,
        prediction={"type": "content", "content": "A red car."},
        web_search_options={
            "search_context_size": "low",
            "user_location": {
                "type": "approximate",
                "approximate": {"city": "Paris", "country": "FR"},
            },
        },
    )
    create(
        model="openai",
        messages=[ask],
        tools=[
            {
                "type": "custom",
                "custom": {
                    "name": "code",
                    "description": "Runs code.",
                    "format": {
                        "type": "grammar",
                        "grammar": {"syntax": "lark", "definition": 'start: "a"'},
                    },
                },
            }
        ],
        tool_choice={
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "auto",
                "tools": [{"type": "custom", "custom": {"name": "code"}}],
            },
        },
    )
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    create(
        model="openai",
        functions=[function],
        function_call={"name": "f"},
        messages=[
            ask,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "f", "arguments": "{}"},
            },
            {"role": "function", "name": "f", "content": "ok"},
        ],
    )


def play_upstreams(url):
    """The official client with the extensions that each upstream documents, through extra_body."""
    import openai

    create = openai.OpenAI(base_url=url, api_key=KEY).chat.completions.create
    hello = [{"role": "user", "content": "hi"}]
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    for extra in (
        {
            "top_k": 20,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "guided_json": schema,
            "chat_template_kwargs": {"enable_thinking": False},
            "add_generation_prompt": True,
            "stop_token_ids": [1, 2],
            "skip_special_tokens": False,
            "include_reasoning": True,
        },
        {
            "structured_outputs": {"choice": ["yes", "no"]},
            "documents": [{"title": "t", "text": "x"}],
            "cache_salt": "s",
            "priority": 1,
            "thinking_token_budget": 100,
            "bad_words": ["x"],
        },
        {
            "regex": "[a-z]+",
            "ebnf": 'root ::= "a"',
            "separate_reasoning": True,
            "no_stop_trim": False,
            "rid": "r-1",
            "stop_regex": "x+",
        },
        {
            "reasoning": {"effort": "high", "exclude": False},
            "provider": {"order": ["a", "b"], "allow_fallbacks": False},
            "models": ["a/b", "c/d:free"],
            "usage": {"include": True},
            "route": "fallback",
        },
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"keep_alive": "5m", "options": {"num_ctx": 4096}, "think": True},
        {
            "grammar": 'root ::= "a"',
            "cache_prompt": True,
            "n_probs": 2,
            "mirostat": 2,
            "samplers": ["top_k", "temperature"],
            "json_schema": schema,
        },
        {"safe_prompt": True, "random_seed": 3, "prompt_mode": "reasoning"},
        {"search_domain_filter": ["a.example"], "return_images": False, "enable_search": True},
        {
            "drop_params": True,
            "num_retries": 2,
            "tags": ["a"],
            "cache": {"no-cache": True},
            "litellm_session_id": "s-1",
            "metadata": {"generation_name": "g", "tags": ["x"]},
        },
    ):
        create(model="openai", messages=hello, extra_body=extra)
    cached = {"type": "text", "text": "x" * 50, "cache_control": {"type": "ephemeral"}}
    create(model="openai", messages=[{"role": "system", "content": [cached]}, *hello])
    create(
        model="openai", messages=hello, response_format={"type": "json_object", "schema": schema}
    )
    create(
        model="openai",
        messages=hello,
        response_format={
            "type": "structural_tag",
            "structures": [{"begin": "<f>", "schema": schema, "end": "</f>"}],
            "triggers": ["<f"],
        },
    )
    create(model="openai", messages=[*hello, {"role": "assistant", "content": "A", "prefix": True}])


def play_langchain(url):
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
    from langchain_core.messages.content import create_image_block, create_text_block
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from pydantic import BaseModel, Field

    class Thing(BaseModel):
        """What was seen."""

        name: str = Field(description="What it is.")
        count: int

    @tool
    def look(where: str) -> str:
        """Looks somewhere."""
        return f"A red car {where}."

    ask = HumanMessage(
        [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": URL}}]
    )
    blocks = HumanMessage(
        content_blocks=[
            create_text_block(QUESTION),
            create_image_block(base64=base64.b64encode(PNG).decode(), mime_type="image/png"),
        ]
    )
    for version in ("v0", "v1"):
        chat = ChatOpenAI(
            model="openai",
            base_url=url,
            api_key=KEY,
            temperature=0,
            output_version=version,
            use_responses_api=False,
        )
        first = chat.invoke([SystemMessage("Be brief."), ask])
        chat.invoke([ask, first, HumanMessage("Sure?")])
        chat.invoke([blocks, first, HumanMessage(content_blocks=[create_text_block("Sure?")])])
        bound = chat.bind_tools([look])
        called = bound.invoke([ask])
        result = ToolMessage(
            look.invoke(called.tool_calls[0]).content, tool_call_id=called.tool_calls[0]["id"]
        )
        bound.invoke([ask, called, result])
        list(chat.stream([ask, *[first, HumanMessage("Sure?")]]))
        chat.with_structured_output(Thing).invoke([ask])
        chat.with_structured_output(Thing, method="function_calling").invoke([ask])
        chat.with_structured_output(Thing, method="json_mode").invoke([ask])
    thought = AIMessage(
        [{"type": "reasoning", "reasoning": "So."}, {"type": "text", "text": "A car."}]
    )
    chat.invoke([ask, thought, HumanMessage("Sure?")])
    kept = ToolMessage(
        [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": URL}}],
        tool_call_id=called.tool_calls[0]["id"],
    )
    bound.invoke([ask, called, kept])


def play_litellm(url):
    import litellm

    def create(messages, **fields):
        return litellm.completion(
            "openai/" + fields.pop("model", "litellm"),
            messages,
            api_base=url,
            api_key=KEY,
            **fields,
        )

    ask = {
        "role": "user",
        "content": [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": URL}],
    }
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "description": "d",
            "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
        },
    }
    for model in ("litellm", "openrouter", "vllm"):
        first = create([ask], model=model)
        create([ask, first.choices[0].message, {"role": "user", "content": "Sure?"}], model=model)
        dumped = first.choices[0].message.model_dump()
        create(
            [ask, dumped, {"role": "user", "content": "Sure?"}], model=model, top_k=3, tags=["x"]
        )
        called = create([ask], tools=[tool], model=model).choices[0].message
        result = {
            "role": "tool",
            "tool_call_id": called.tool_calls[0].id,
            "name": "f",
            "content": "A red car.",
        }
        create([ask, called, result], tools=[tool], model=model)
        create([ask, called.model_dump(), result], tools=[tool], model=model)


def play_dspy(url):
    import dspy

    dspy.configure(lm=dspy.LM("openai/openai", api_base=url, api_key=KEY, cache=False))
    for signature in ("question -> answer", "picture: dspy.Image, question -> answer"):
        with_picture = {"picture": dspy.Image(URL)} if "picture" in signature else {}
        try:
            dspy.Predict(signature)(question=QUESTION, **with_picture)
        except Exception:
            traceback.print_exc(limit=1)


def play_llama_index(url):
    from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai import OpenAI

    def look(where: str) -> str:
        """Looks somewhere."""
        return "A red car."

    llm = OpenAI(model="gpt-4o", api_base=url, api_key=KEY)
    ask = ChatMessage(
        role="user",
        blocks=[TextBlock(text=QUESTION), ImageBlock(image=PNG, image_mimetype="image/png")],
    )
    first = llm.chat([ChatMessage(role="system", content="Be brief."), ask])
    llm.chat([ask, first.message, ChatMessage(role="user", content="Sure?")])
    tool = FunctionTool.from_defaults(look)
    called = llm.chat_with_tools([tool], user_msg=ask)
    llm.chat(
        [
            ask,
            called.message,
            ChatMessage(
                role="tool", content="A red car.", additional_kwargs={"tool_call_id": "call_1"}
            ),
        ]
    )
    list(llm.stream_chat([ask]))


def play_pydantic_ai(url):
    from pydantic import BaseModel
    from pydantic_ai import Agent, BinaryContent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    class Thing(BaseModel):
        name: str
        count: int

    for name in ("openai", "vllm"):
        model = OpenAIChatModel(name, provider=OpenAIProvider(base_url=url, api_key=KEY))
        question = [QUESTION, BinaryContent(PNG, media_type="image/png")]
        agent = Agent(model, system_prompt="Be brief.")

        @agent.tool_plain
        def look(where: str) -> str:
            """Looks somewhere."""
            return "A red car."

        first = agent.run_sync(question)
        agent.run_sync("Sure?", message_history=first.all_messages())
        Agent(model, output_type=Thing).run_sync(question)


def play_instructor(url):
    import instructor
    import openai
    from pydantic import BaseModel

    class Thing(BaseModel):
        name: str
        count: int

    content = [QUESTION, instructor.Image.from_base64(URL)]
    for mode in (
        instructor.Mode.TOOLS,
        instructor.Mode.JSON,
        instructor.Mode.JSON_SCHEMA,
        instructor.Mode.TOOLS_STRICT,
    ):
        client = instructor.from_openai(openai.OpenAI(base_url=url, api_key=KEY), mode=mode)
        client.chat.completions.create(
            model="openai",
            response_model=Thing,
            max_retries=1,
            messages=[{"role": "user", "content": content}],
        )


def play_autogen(url):
    import io

    from autogen_core import Image
    from autogen_core.models import AssistantMessage, SystemMessage, UserMessage
    from autogen_ext.models.openai import OpenAIChatCompletionClient
    from PIL import Image as Pillow

    async def play():
        info = {
            "vision": True,
            "function_calling": True,
            "json_output": True,
            "family": "unknown",
            "structured_output": True,
        }
        client = OpenAIChatCompletionClient(
            model="openai", base_url=url, api_key=KEY, model_info=info
        )
        picture = Image(Pillow.open(io.BytesIO(PNG)))
        ask = UserMessage(content=[QUESTION, picture], source="user")
        first = await client.create([SystemMessage(content="Be brief."), ask])
        answer = AssistantMessage(content=first.content, source="assistant")
        await client.create([ask, answer, UserMessage(content="Sure?", source="user")])
        async for _ in client.create_stream([ask]):
            pass

    asyncio.run(play())


def play_semantic_kernel(url):
    import openai
    from semantic_kernel import Kernel
    from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
    from semantic_kernel.connectors.ai.open_ai import (
        OpenAIChatCompletion,
        OpenAIChatPromptExecutionSettings,
    )
    from semantic_kernel.contents import ChatHistory, ChatMessageContent, ImageContent, TextContent
    from semantic_kernel.functions import kernel_function

    class Looking:
        @kernel_function(description="Looks somewhere.")
        def look(self, where: str) -> str:
            return "A red car."

    async def play():
        service = OpenAIChatCompletion(
            ai_model_id="openai", async_client=openai.AsyncOpenAI(base_url=url, api_key=KEY)
        )
        kernel = Kernel()
        kernel.add_plugin(Looking(), "eyes")
        history = ChatHistory(system_message="Be brief.")
        history.add_message(
            ChatMessageContent(
                role="user", items=[TextContent(text=QUESTION), ImageContent(data_uri=URL)]
            )
        )
        settings = OpenAIChatPromptExecutionSettings(
            function_choice_behavior=FunctionChoiceBehavior.Auto()
        )
        answer = await service.get_chat_message_content(history, settings, kernel=kernel)
        history.add_message(answer)
        history.add_user_message("Sure?")
        await service.get_chat_message_content(history, OpenAIChatPromptExecutionSettings())

    asyncio.run(play())


def play_openai_agents(url):
    import agents
    import openai

    @agents.function_tool
    def look(where: str) -> str:
        """Looks somewhere."""
        return "A red car."

    async def play():
        agents.set_tracing_disabled(True)
        client = openai.AsyncOpenAI(base_url=url, api_key=KEY)
        model = agents.OpenAIChatCompletionsModel(model="vllm", openai_client=client)
        agent = agents.Agent(name="a", instructions="Be brief.", model=model, tools=[look])
        ask = [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": QUESTION},
                    {"type": "input_image", "image_url": URL, "detail": "auto"},
                ],
            }
        ]
        first = await agents.Runner.run(agent, ask)
        again = [*first.to_input_list(), {"role": "user", "content": "Sure?"}]
        await agents.Runner.run(agent, again)

    asyncio.run(play())


def play_haystack(url):
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.dataclasses import ChatMessage, ImageContent
    from haystack.tools import Tool
    from haystack.utils import Secret

    tool = Tool(
        name="look",
        description="Looks.",
        function=lambda where: "A red car.",
        parameters={"type": "object", "properties": {"where": {"type": "string"}}},
    )
    generator = OpenAIChatGenerator(
        model="openai", api_base_url=url, api_key=Secret.from_token(KEY)
    )
    picture = ImageContent(base64.b64encode(PNG).decode(), mime_type="image/png")
    ask = ChatMessage.from_user(content_parts=[QUESTION, picture])
    first = generator.run([ChatMessage.from_system("Be brief."), ask])["replies"][0]
    generator.run([ask, first, ChatMessage.from_user("Sure?")])
    called = generator.run([ask], tools=[tool])["replies"][0]
    result = ChatMessage.from_tool("A red car.", origin=called.tool_calls[0])
    generator.run([ask, called, result], tools=[tool])


def play_smolagents(url):
    import io

    from PIL import Image
    from smolagents import ChatMessage, OpenAIServerModel

    model = OpenAIServerModel(model_id="openai", api_base=url, api_key=KEY)
    picture = Image.open(io.BytesIO(PNG))
    ask = ChatMessage(
        role="user",
        content=[{"type": "text", "text": QUESTION}, {"type": "image", "image": picture}],
    )
    first = model.generate([ask], stop_sequences=["Observation:"])
    model.generate([ask, first, ChatMessage(role="user", content=[{"type": "text", "text": "?"}])])


def play_mistral(url):
    from mistralai.client import Mistral

    client = Mistral(api_key=KEY, server_url=url.removesuffix("/v1"))
    ask = {
        "role": "user",
        "content": [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": URL}],
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    first = client.chat.complete(model="mistral", messages=[ask], safe_prompt=True, random_seed=1)
    answer = first.choices[0].message
    client.chat.complete(model="mistral", messages=[ask, answer, {"role": "user", "content": "?"}])
    called = client.chat.complete(model="mistral", messages=[ask], tools=[tool]).choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "name": "f", "content": "x"}
    client.chat.complete(model="mistral", messages=[ask, called, result], tools=[tool])


def play_javascript(name):
    script = Path(__file__).with_name("record.mjs")
    return lambda url: subprocess.run(
        ["node", script, name, url, os.environ["NODE_FOLDER"]], check=True, timeout=120
    )


def main(names):
    """Records the named clients, or all."""
    players = {name.removeprefix("play_"): f for name, f in globals().items() if "play_" in name}
    del players["javascript"]
    if "NODE_FOLDER" in os.environ:
        players |= {name: play_javascript(name) for name in ("openai_js", "ai_sdk", "langchain_js")}
    os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": KEY}
    OUT.mkdir(exist_ok=True)
    for name in names or players:
        with recording() as (url, bodies):
            os.environ["OPENAI_BASE_URL"] = url
            try:
                players[name](url)
            except Exception:
                traceback.print_exc(limit=-3)
            unlike = list({json.dumps(body, sort_keys=True): body for body in bodies}.values())
            text = (
                "[\n" + ",\n".join(json.dumps(b, separators=(",", ":")) for b in unlike) + "\n]\n"
            )
            (OUT / f"{name}.json").write_text(text)
            sys.stderr.write(f"{name}: {len(unlike)} bodies, {len(text)} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
