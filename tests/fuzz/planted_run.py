"""Plants in conversations: taken apart by the function itself, and sent to a service by HTTP."""

import json
from collections import Counter

from hypothesis import HealthCheck, Phase, given, seed, settings

from codefend.models.prompts.templates import Template
from codefend.service.decode.chat import ChatLimits, open_chat
from codefend.service.errors import RequestRefused
from codefend.service.forward.completion import ChatBody
from codefend.service.protocols.fields import FieldRules
from codefend.service.protocols.prompting import Placing, PromptPlace
from tests.fuzz.planted import CHAT, as_body, complaints, num_plants, planted_requests
from tests.fuzz.planted_messages import MESSAGES_GROUND
from tests.fuzz.planted_responses import RESPONSES_GROUND

GROUNDS = {ground.protocol.name: ground for ground in (CHAT, RESPONSES_GROUND, MESSAGES_GROUND)}
LIMITS = ChatLimits(max_images=8, max_answer_tokens=8192, max_choices=8)
PROMPT = Template("calm", "1", "Look twice. {question} Be sure.")
PLACING = Placing(PromptPlace.SYSTEM)
PURIFIED = b"data:image/png;base64,cHVyaWZpZWQ="


class _FirstFound(Exception):
    """Ends a run that only asks whether anything is found."""


def finds_any(num_bodies, ground=CHAT):
    """Whether that many planted requests find a hole."""
    try:
        plant_in_function(num_bodies, progress=_raise_if_found, ground=ground)
    except _FirstFound:
        return True
    return False


def _raise_if_found(found):
    if found:
        raise _FirstFound


def plant_in_function(num_bodies, seed_number=0, rules=None, progress=lambda _: None, ground=CHAT):
    """Takes planted requests apart, and judges what would be forwarded.

    Returns:
        Outcomes by name, and the complaints.
    """
    outcomes, found = Counter(), []

    def send(document):
        try:
            chat = open_chat(
                as_body(document), ground.protocol, LIMITS, PLACING, rules or FieldRules()
            )
        except RequestRefused as refusal:
            return refusal.code, None
        if chat.references:  # to what nobody was given
            return "unknown_state", None
        images = [(PURIFIED, image.is_source) for image in chat.images]
        prompts = [PROMPT] * len(chat.questions)
        parts = (chat.fragments, images, True, {}, chat.gaps, prompts)
        body = ChatBody(ground.protocol, *parts).body(None)
        return "forwarded", json.loads(body)

    _run(ground, send, num_bodies, seed_number, outcomes, found, progress)
    return outcomes, found


def plant_over_http(
    service, upstream, num_bodies, seed_number=0, progress=lambda _: None, ground=CHAT
):
    """The same through a running service, to a recording upstream."""
    outcomes, found = Counter(), []

    def send(document):
        upstream.bodies.clear()
        response = service.client.post(
            ground.protocol.path,
            content=as_body(document),
            headers={"content-type": "application/json"},
        )
        if response.status_code >= 500:
            found.append(f"{response.status_code} for {str(document)[:2000]}")
        arrived = json.loads(upstream.bodies[-1]) if upstream.bodies else None
        return str(response.status_code) if arrived is None else "forwarded", arrived

    _run(ground, send, num_bodies, seed_number, outcomes, found, progress)
    return outcomes, found


def _run(ground, send, num_bodies, seed_number, outcomes, found, progress):
    @seed(seed_number)
    @settings(
        max_examples=num_bodies,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(planted_requests(ground))
    def play(document):
        outcome, arrived = send(document)
        outcomes[outcome] += 1
        if arrived is not None:
            outcomes["plants forwarded"] += num_plants(arrived)
            found.extend(complaints(arrived, ground.may_stand))
        outcomes["plants sent"] += num_plants(document)
        progress(found)

    play()
