"""Files of keys with policies: what is read, what holds, and what is refused in which words."""

import pytest

from codefend.service.credentials import read_keys
from codefend.service.policy import Disclosure, Mode, OnFlagged, Policy

KEY = '[[keys]]\nkey = "topsecret"\n'


@pytest.fixture
def write(tmp_path):
    def write(content):
        file = tmp_path / "keys.toml"
        file.write_text(content)
        return file

    return write


def policies(file, base):
    return {key.name: key.change.apply(base) for key in read_keys(file)}


def test_what_is_not_set_is_as_the_service_says(write):
    base = Policy(disclose=Disclosure.FULL, max_requests=9)
    file = write('[[keys]]\nname = "ann"\nkey = "a"\nmax_requests_per_minute = 5\n')
    assert policies(file, base)["ann"] == Policy(
        name="own", disclose=Disclosure.FULL, max_requests=9, max_requests_per_minute=5
    )


def test_a_keys_own_fields_win_over_those_of_the_policy_it_names(write):
    file = write(
        '[policies.strict]\non_flagged = "refuse"\nmode = "shadow"\n'
        '[[keys]]\nname = "ann"\nkey = "a"\npolicy = "strict"\n'
        '[[keys]]\nname = "bob"\nkey = "b"\npolicy = "strict"\nmode = "enforce"\n'
    )
    found = policies(file, Policy())
    assert found["ann"] == Policy(name="strict", on_flagged=OnFlagged.REFUSE, mode=Mode.SHADOW)
    assert found["bob"] == Policy(name="own", on_flagged=OnFlagged.REFUSE, mode=Mode.ENFORCE)


def test_off_holds_for_every_key(write):
    file = write(KEY + 'name = "ann"\nmode = "enforce"\n')
    assert policies(file, Policy(mode=Mode.OFF))["ann"].mode is Mode.OFF


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (KEY + 'mode = "of"', "key 1: mode: Input should be"),
        (KEY + 'mode = "off"', "key 1: mode: off is for the whole service"),
        (KEY + "max_requests = 0", "key 1: max_requests: .*greater than or equal to 1"),
        (KEY + "max_requests = true", "key 1: max_requests: .*valid integer"),
        (KEY + "endpoints = []", "key 1: endpoints: .*at least 1"),
        (KEY + 'endpoints = ["/v1/vqqa"]', "key 1: endpoints: there is no /v1/vqqa"),
        (KEY + 'policy = "lax"', r"there is no \[policies.lax\]"),
        (KEY + "policy = 7", "must be strings"),
        ("policies = 1\n" + KEY, r"\[policies.NAME\]"),
        (KEY + '[policies.x]\nname = "y"', "policy x: only"),
        (KEY + '[policies.service]\nmode = "shadow"', "policy service: call it otherwise"),
        (KEY + '[policies.own]\nmode = "shadow"', "policy own: call it otherwise"),
        (KEY + '[policies.""]\nmode = "shadow"', "policy : call it otherwise"),
        (KEY + '[policies.x]\nmode = "y"', "policy x: mode: Input should be"),
        (
            KEY + 'name = "ann"\n[[keys]]\nname = "ann"\nkey = "b"\nmode = "shadow"',
            "keys of one name must have one policy",
        ),
        (KEY + 'name = "ann"\n' + KEY + 'name = "bob"', "under two names"),
    ],
)
def test_what_is_wrong_is_refused_in_words_without_keys(write, content, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read_keys(write(content))
    assert "topsecret" not in str(caught.value)
