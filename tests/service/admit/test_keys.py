import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers

from service.admit.keys import check_caller
from service.errors import Unauthorized, WrongHost

KEYS = (SecretStr("one"), SecretStr("two"))


@pytest.mark.parametrize("value", ["Bearer one", "bearer two", "Bearer  one "])
def test_a_known_key_opens_under_any_host(value):
    caller = check_caller(Headers({"authorization": value, "host": "any.example"}), KEYS)
    assert caller
    assert not any(key.get_secret_value() in caller for key in KEYS)


def test_callers_are_told_apart_by_their_keys():
    def name(value):
        return check_caller(Headers({"authorization": value}), KEYS)

    assert name("Bearer one") == name("bearer  one ") != name("Bearer two")


@pytest.mark.parametrize("value", ["", "one", "Basic one", "Bearer three", "Bearer öne"])
def test_anything_else_does_not(value):
    with pytest.raises(Unauthorized):
        check_caller(Headers({"authorization": value}), KEYS)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8000", "LOCALHOST:1", "[::1]:80", "[::1]"]
)
def test_without_keys_loopback_names_are_served(host):
    check_caller(Headers({"host": host}), ())


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example:8000", "10.0.0.1"])
def test_without_keys_no_other_name_is(host):
    with pytest.raises(WrongHost):
        check_caller(Headers({"host": host}), ())
