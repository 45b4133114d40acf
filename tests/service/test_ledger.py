"""Which ids pass: those that the same key was given, of late, while its images were purified."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from codefend.service.decode.walk import StateReference
from codefend.service.errors import UnknownState
from codefend.service.ledger import LIFETIME_S, StateLedger
from codefend.service.policy import Mode
from codefend.service.protocols.fields import Findings


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self):
        return self.now_s


@dataclass
class Referring:
    references: list
    findings: Findings = field(default_factory=Findings)


def caller(name, mode=Mode.ENFORCE):
    return SimpleNamespace(caller=name, policy=SimpleNamespace(mode=mode))


def naming(*ids):
    return Referring([StateReference(each, "previous_response_id", "place") for each in ids])


def knows(ledger, context, each):
    try:
        ledger.check(context, naming(each))
    except UnknownState:
        return False
    return True


def test_an_id_passes_for_the_key_that_got_it_alone():
    ledger = StateLedger(9)
    ledger.remember(caller("a"), ["resp_1", "msg_1"])
    ledger.check(caller("a"), naming("resp_1", "msg_1"))
    assert not knows(ledger, caller("b"), "resp_1")
    assert not knows(ledger, caller("a"), "resp_2")


def test_the_refusal_says_what_to_send_instead():
    with pytest.raises(UnknownState) as raised:
        StateLedger(9).check(caller("a"), naming("resp_1"))
    assert raised.value.param == "previous_response_id"
    assert "Send the conversation itself" in raised.value.public_message
    assert "CODEFEND_ALLOWED_FIELDS=place" in raised.value.public_message


def test_the_oldest_of_a_key_are_forgotten_and_no_others():
    ledger = StateLedger(3)
    ledger.remember(caller("b"), ["theirs"])
    ledger.remember(caller("a"), [f"resp_{n}" for n in range(5)])
    assert [knows(ledger, caller("a"), f"resp_{n}") for n in range(5)] == [False] * 2 + [True] * 3
    assert knows(ledger, caller("b"), "theirs")


def test_an_id_is_forgotten_after_its_time():
    clock = Clock()
    ledger = StateLedger(3, clock)
    ledger.remember(caller("a"), ["resp_1"])
    clock.now_s = LIFETIME_S - 1
    assert knows(ledger, caller("a"), "resp_1")
    clock.now_s = LIFETIME_S + 1
    assert not knows(ledger, caller("a"), "resp_1")


def test_none_are_remembered_where_none_may_be():
    ledger = StateLedger(0)
    ledger.remember(caller("a"), ["resp_1"])
    assert not knows(ledger, caller("a"), "resp_1")


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.OFF])
def test_what_was_answered_while_nothing_was_enforced_is_not_referred_to_later(mode):
    ledger = StateLedger(9)
    ledger.remember(caller("a", mode), ["resp_1"])
    assert not knows(ledger, caller("a"), "resp_1")
    chat = naming("resp_1")
    ledger.check(caller("a", mode), chat)
    assert chat.findings.counts == {"unknown_state": 1}
    assert chat.findings.names == ["place"]
