"""Prompts that are written for one question: in batches, in time, fairly, or not at all."""

import asyncio
import json
import time
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from pydantic import ValidationError

from codefend.models.prompts.templates import Template
from codefend.service.processes.supervision import Supervision
from codefend.service.prompts import MAX_BATCH, MAX_WAITING, PromptWriter, WriterConfig
from codefend.service.protocols.prompting import PromptSource
from codefend.service.settings import Settings
from tests.models.prompts.taught import WORDS, teach
from tests.service.fake_writer import NAMED, SLOW_S, make_fake_writer
from tests.service.pictures import png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form
from tests.service.test_chat import PATH, chat, image_part, text_part, user

pytestmark = pytest.mark.slow

PLAIN = Template("plain", "1", "{question}")
LONG_S = 30


@asynccontextmanager
async def writer(budget_s=LONG_S, make=make_fake_writer):
    outcomes = Counter()
    config = WriterConfig("", None, 1)
    made = PromptWriter(
        config, budget_s, 60.0, lambda: outcomes.update(["restart"]),
        lambda outcome: outcomes.update([outcome]), make,
    )  # fmt: skip
    made.start(Supervision(lambda name: outcomes.update([f"failed: {name}"])))
    try:
        yield made, outcomes
    finally:
        await made.stop()


async def ready(made):
    """Waits until the process writes."""
    while (await made.write(["ready?"], "nobody", PLAIN))[0] is PLAIN:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def texts(prompts):
    return [prompt.text for prompt in prompts]


def test_each_question_has_its_prompt_and_keeps_it():
    async def play():
        async with writer() as (made, outcomes):
            await ready(made)
            outcomes.clear()
            prompts = await made.write(["a", "b", "a"], "ann", PLAIN)
            assert texts(prompts) == [f"2 of {q} {{question}}" for q in "aba"]
            assert {(p.name, p.version) for p in prompts} == {tuple(NAMED.values())}
            # Later alone, it would be written otherwise: an upstream's cache would miss.
            assert await made.write(["b"], "ann", PLAIN) == prompts[1:2]
            assert texts(await made.write(["b"], "bob", PLAIN)) == ["1 of b {question}"]
            assert outcomes == {"written": 5}

    asyncio.run(play())


def test_what_comes_together_is_written_together():
    async def play():
        async with writer() as (made, _):
            await ready(made)
            first = asyncio.create_task(made.write(["slow"], "ann", PLAIN))
            await asyncio.sleep(0.2)
            asks = [made.write([f"q{n}"], f"caller {n % 3}", PLAIN) for n in range(MAX_BATCH + 1)]
            sizes = Counter(text.split()[0] for (text,) in map(texts, await asyncio.gather(*asks)))
            assert sizes == {str(MAX_BATCH): MAX_BATCH, "1": 1}
            await first

    asyncio.run(play())


def test_a_caller_that_floods_leaves_room_in_the_next_batch():
    async def play():
        async with writer() as (made, _):
            await ready(made)
            busy = asyncio.create_task(made.write(["slow"], "eve", PLAIN))
            await asyncio.sleep(0.2)
            flood = [
                asyncio.create_task(made.write([f"slow {n}"], "eve", PLAIN)) for n in range(40)
            ]
            await asyncio.sleep(0)
            began_s = time.monotonic()
            assert texts(await made.write(["mine"], "ann", PLAIN)) != [PLAIN.text]
            assert time.monotonic() - began_s < 3 * SLOW_S  # the flood takes six batches
            for task in (busy, *flood):
                task.cancel()
            await asyncio.gather(busy, *flood, return_exceptions=True)

    asyncio.run(play())


def test_what_is_late_unfit_lost_or_too_much_is_replaced_by_the_template():
    async def play():
        async with writer(budget_s=0.3) as (made, outcomes):
            # While the model loads there is none.
            assert await made.write(["early"], "ann", PLAIN) == [PLAIN]
            await ready(made)
            outcomes.clear()
            began_s = time.monotonic()
            assert await made.write(["slow"], "ann", PLAIN) == [PLAIN]
            assert time.monotonic() - began_s < SLOW_S
            assert await made.write(["behind it"], "ann", PLAIN) == [PLAIN]
            await asyncio.sleep(SLOW_S)
            # It was written all the same, and serves the next time.
            assert texts(await made.write(["slow"], "ann", PLAIN)) == ["1 of slow {question}"]
            assert await made.write(["unfit"], "ann", PLAIN) == [PLAIN]
            many = [f"q{number}" for number in range(MAX_WAITING + 1)]
            assert await made.write(many, "ann", PLAIN) == [PLAIN] * len(many)
            assert outcomes["late"] == 2 + len(many)
            assert outcomes["unfit"] == 1
            assert await made.write(["die"], "ann", PLAIN) == [PLAIN]
            await ready(made)
            assert outcomes["restart"] >= 1
            assert not any(outcome.startswith("failed") for outcome in outcomes)

    asyncio.run(play())


def test_a_model_that_does_not_load_leaves_the_templates():
    async def play():
        async with writer(make=None) as (made, outcomes):
            await made._tasks[0]  # the one that starts the process
            assert await made.write(["a"], "ann", PLAIN) == [PLAIN]
            assert outcomes == {"late": 1}

    asyncio.run(play())


def test_without_an_adapter_there_is_no_generator(tmp_path):
    with pytest.raises(ValidationError, match="needs CODEFEND_PROMPT_GENERATOR, a directory"):
        Settings(prompt=PromptSource.GENERATOR)
    with pytest.raises(ValidationError, match="codefend-lab prompt-generator wrote"):
        Settings(prompt=PromptSource.GENERATOR, prompt_generator=str(tmp_path))


def test_a_service_asks_with_what_is_written(upstream, tmp_path):
    base, adapter = teach(tmp_path)
    settings = make_settings(
        upstream.url,
        prompt=PromptSource.GENERATOR,
        prompt_generator=str(adapter),
        prompt_generator_base=base,
        prompt_timeout_s=LONG_S,
    )
    question = "where is the dog, and why?"
    with run_service(settings) as service:
        service.wait_until(lambda: ask(service, question)["name"] == "taught")
        upstream.bodies.clear()
        assert ask(service, question) == {"name": "taught", "version": "3"}
        body = chat(user(text_part(question), image_part(png())), user(text_part("and then?")))
        response = service.client.post(PATH, json=body)
        told = response.json()["codefend"]["images"][0]["defense"]["prompt_template"]
        assert told == {"name": "taught", "version": "3"}
        assert service.metric("codefend_prompts_total", outcome="written") >= 2
        assert WORDS not in response.text
    asked, chatted = (json.loads(each)["messages"] for each in upstream.bodies)
    assert asked[0]["content"][1]["text"] == f"{WORDS} {question}"
    assert chatted[0]["content"][0]["text"] == f"{WORDS} {question}"
    assert chatted[1]["content"][0]["text"] == "and then?"


def ask(service, question):
    response = service.client.post("/v1/vqa", **as_form(png(), question=question))
    return response.json()["defense"]["prompt_template"]
