"""The defensive prompt: where it is asked, where it is not, and that none of it comes back."""

import json

import pytest

from codefend.models.prompts.templates import Task, Template
from codefend.service.policy import Mode
from codefend.service.protocols.base import all_protocols
from codefend.service.protocols.prompting import PromptPlace, PromptSource
from tests.service.pictures import png
from tests.service.test_api import as_form
from tests.service.test_chat import PATH, chat, image_part, text_part, user

WORDS = "Zebras never lie."
CALM = Template("calm", "2", f"{WORDS} {{question}}", "describe the image.")
NAMED = {"name": "calm", "version": "2"}
CHAT = chat(user(text_part("what is it?"), image_part(png())))


@pytest.fixture
def prompted(service):
    """The service, with a prompt for every task."""
    prompts = service.runtime.pipeline.prompts
    before, prompts.templates = prompts.templates, dict.fromkeys(Task, CALM)
    yield service
    prompts.templates = before


def ask_all(service):
    """Three requests with an image: what the upstream is asked differs by the template alone."""
    return [
        service.client.post("/v1/caption", **as_form(png())),
        service.client.post("/v1/vqa", **as_form(png(), question="what is it?")),
        service.client.post(PATH, json=CHAT),
    ]


def prompts_named(responses):
    answers = [response.json() for response in responses]
    images = [answer.get("codefend", {}).get("images", [answer])[0] for answer in answers]
    return [image["defense"]["prompt_template"] for image in images]


def questions(upstream):
    """The text of the first message of each request."""
    contents = [json.loads(body)["messages"][0]["content"] for body in upstream.bodies]
    return [
        next(part["text"] for part in content if part["type"] == "text") for content in contents
    ]


ASKED = ["describe the image.", "what is it?", "what is it?"]


def test_every_question_about_an_image_is_asked_with_the_prompt(prompted, upstream):
    responses = ask_all(prompted)
    assert questions(upstream) == [f"{WORDS} {asked}" for asked in ASKED]
    assert prompts_named(responses) == [NAMED] * 3


@pytest.mark.parametrize(
    "changes", [{"prompt": PromptSource.OFF}, {"mode": Mode.SHADOW}], ids=["off", "shadow"]
)
def test_none_is_asked_where_it_is_off_and_where_the_model_is_to_see_what_was_sent(
    prompted, upstream, changes
):
    with prompted.changed(**changes):
        responses = ask_all(prompted)
    assert questions(upstream) == ASKED
    assert prompts_named(responses) == [None] * 3


def test_it_stands_behind_the_system_prompt_by_setting(prompted, upstream):
    told = chat({"role": "system", "content": "You are Ann."}, *CHAT["messages"])
    with prompted.changed(prompt_place=PromptPlace.SYSTEM):
        response = prompted.client.post(PATH, json=told)
        prompted.client.post(PATH, json=chat(user(text_part("hi"))))
    first, second = (json.loads(body)["messages"] for body in upstream.bodies)
    assert first[0] == {"role": "system", "content": f"You are Ann.\n\n{WORDS}"}
    assert first[1]["content"][0]["text"] == "what is it?"
    assert second == [user(text_part("hi"))]
    assert prompts_named([response]) == [NAMED]


@pytest.mark.parametrize("place", PromptPlace)
@pytest.mark.parametrize("status", [200, 400, 422, 429, 500])
def test_nothing_of_it_comes_back(prompted, upstream, place, status):
    """Neither in an answer, nor in an upstream's refusal that quotes the request."""
    upstream.status = status
    if status != 200:
        quoted = f"cannot read: {WORDS} what is it?"
        error = {"error": {"message": quoted, "code": quoted, "param": WORDS}}
        upstream.reply = lambda handler, _: handler.send(
            json.dumps(error).encode(), "application/json"
        )
    with prompted.changed(prompt_place=place):
        responses = [*ask_all(prompted), prompted.client.post(PATH, json=CHAT | {"stream": True})]
    assert all(WORDS not in response.text for response in responses)
    assert all(WORDS not in str(response.headers) for response in responses)
    assert len(upstream.bodies) >= 4
    assert all((response.status_code == 200) is (status == 200) for response in responses)
    assert all(WORDS in body.decode() for body in upstream.bodies)


@pytest.mark.parametrize("path", all_protocols())
def test_every_protocol_has_a_place_for_it(path):
    document = {"model": "m", all_protocols()[path].conversation: []}
    all_protocols()[path].instruct(document, WORDS)
    assert WORDS in json.dumps(document)
