import os

import pytest
from starlette.datastructures import Headers

from codefend.service.credentials import KeyRing, check_key, hash_key, read_keys
from codefend.service.errors import AmbiguousKey, Unauthorized, WrongHost

RING = KeyRing(hash_key(key) for key in ("one", "two"))


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def caller(value, ring=RING):
    return key_of(value, ring).name


def key_of(value, ring=RING):
    return ring.find(Headers({"authorization": value, "host": "any.example"}))


@pytest.mark.parametrize("value", ["Bearer one", "bearer two", "Bearer  one "])
def test_a_known_key_opens_under_any_host(value):
    name = caller(value)
    assert name.startswith("key-")
    assert "one" not in name
    assert "two" not in name


def test_callers_are_told_apart_by_their_keys():
    assert caller("Bearer one") == caller("bearer  one ") != caller("Bearer two")
    assert RING.num_callers == 2


@pytest.mark.parametrize(
    "value", ["", "one", "Basic one", "Bearer three", "Bearer öne", f"Bearer {hash_key('one')}"]
)
def test_anything_else_does_not(value):
    with pytest.raises(Unauthorized):
        caller(value)


def test_two_keys_in_one_request_are_refused_even_if_both_are_right():
    raw = [(b"authorization", b"Bearer one"), (b"authorization", b"Bearer one")]
    with pytest.raises(AmbiguousKey):
        RING.find(Headers(raw=raw))


def offered(*headers):
    return RING.find(Headers(raw=[(name.encode(), value.encode()) for name, value in headers]))


@pytest.mark.parametrize(
    "headers",
    [
        [("x-api-key", "one")],
        [("x-api-key", " one ")],
        [("x-api-key", "one"), ("authorization", "Bearer one")],
        [("x-api-key", ""), ("authorization", "Bearer one")],
    ],
)
def test_anthropics_header_is_as_good_as_openais(headers):
    assert offered(*headers) == key_of("Bearer one")


@pytest.mark.parametrize(
    "headers",
    [
        [("x-api-key", "one"), ("authorization", "Bearer two")],
        [("x-api-key", "one"), ("authorization", "Basic one")],
        [("x-api-key", "one"), ("authorization", "Bearer ")],
        [("x-api-key", "one"), ("authorization", "")],
        [("x-api-key", "one"), ("x-api-key", "one")],
        [("x-api-key", "three"), ("authorization", "Bearer one")],
    ],
)
def test_of_two_keys_none_is_chosen(headers):
    with pytest.raises(AmbiguousKey):
        offered(*headers)


@pytest.mark.parametrize("key", ["", "three", "Bearer one", "öne", hash_key("one")])
def test_a_wrong_key_in_anthropics_header_does_not_open(key):
    with pytest.raises(Unauthorized):
        offered(("x-api-key", key))


BAD_KEYS = {
    "white space": ["a b", " a", "a\t", "a\u00a0b"],
    "no HTTP header can hold": ["schlüssel", "a\x00", "a\x7f"],
    "characters long": ["x" * 5000],
    "is empty": [""],
}


@pytest.mark.parametrize(
    ("problem", "key"), [(problem, key) for problem, keys in BAD_KEYS.items() for key in keys]
)
def test_a_key_that_no_request_could_bring_is_refused_and_not_shown(problem, key):
    with pytest.raises(ValueError, match=problem) as raised:
        check_key(key, "key 3")
    assert str(raised.value).startswith("key 3: ")
    assert len(key) < 4 or key not in str(raised.value)


@pytest.mark.parametrize("key", ['key = "a b"', f'sha256 = "{hash_key("")}"', 'key = "ü"'])
def test_a_file_with_such_a_key_is_refused(tmp_path, key):
    file = tmp_path / "keys.toml"
    file.write_text(f'[[keys]]\nname = "ann"\n{key}\n')
    with pytest.raises(ValueError, match=r"key 1: .* no request could ever match it"):
        read_keys(file)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8000", "LOCALHOST:1", "[::1]:80", "[::1]"]
)
def test_without_keys_loopback_names_are_served(host):
    assert KeyRing().find(Headers({"host": host})).name == ""


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example:8000", "10.0.0.1"])
def test_without_keys_no_other_name_is(host):
    with pytest.raises(WrongHost):
        KeyRing().find(Headers({"host": host}))


def test_no_key_is_kept_in_memory():
    held = [key for key in RING._fixed if "one" in {key.sha256, key.name}]
    assert held == []


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(
        f'[[keys]]\nname = "ann"\nsha256 = "{hash_key("a1").upper()}"\n'
        '[[keys]]\nname = "ann"\nkey = "a2"\n[[keys]]\nkey = "b"\n'
    )
    return path


def test_a_file_names_callers_and_two_keys_of_one_name_are_one(file):
    ring = KeyRing([hash_key("fixed")], file)
    assert caller("Bearer a1", ring) == caller("Bearer a2", ring) == "ann"
    assert caller("Bearer b", ring) == f"key-{hash_key('b')[:12]}"
    assert caller("Bearer fixed", ring)
    assert ring.num_callers == 3


def test_keys_are_rotated_without_a_restart(file):
    clock = Clock()
    ring = KeyRing(file=file, clock=clock)
    file.write_text('[[keys]]\nname = "ann"\nkey = "a3"\n')
    assert caller("Bearer a1", ring) == "ann"  # it is looked at once a second
    clock.now_s = 1.0
    assert caller("Bearer a3", ring) == "ann"
    with pytest.raises(Unauthorized):
        caller("Bearer a1", ring)


def test_a_file_that_is_swapped_for_another_of_the_same_time_is_noticed(file, tmp_path):
    clock = Clock()
    ring = KeyRing(file=file, clock=clock)
    other = tmp_path / "other.toml"
    other.write_text('[[keys]]\nkey = "new"\n')
    stamp = file.stat()
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.replace(file)
    clock.now_s = 1.0
    assert caller("Bearer new", ring)


@pytest.mark.parametrize("content", ["[[keys]", "", None])
def test_a_file_gone_bad_locks_nobody_out(file, content, caplog):
    clock = Clock()
    ring = KeyRing(file=file, clock=clock)
    file.unlink() if content is None else file.write_text(content)
    clock.now_s = 1.0
    assert caller("Bearer a1", ring) == "ann"
    assert "stay as they were" in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no = toml = at all", "not TOML"),
        ("roles = []", "only ..keys.. and .policies.NAME. are known"),
        ("", "no .*keys"),
        ("keys = []", "no .*keys"),
        ("keys = [1]", "key 1: it is no table"),
        ('[[keys]]\nname = "x"', "either key or sha256"),
        ('[[keys]]\nkey = "topsecret"\nsha256 = "x"', "either key or sha256"),
        ('[[keys]]\nsha256 = "xyz"', "64 hex digits"),
        ('[[keys]]\nkey = ""', "not empty"),
        ("[[keys]]\nkey = 7", "must be strings"),
        ('[[keys]]\nkey = "topsecret"\nrole = "admin"', "only .*key, .*sha256"),
    ],
)
def test_malformed_files_are_refused_in_words_without_keys(tmp_path, content, reason):
    file = tmp_path / "keys.toml"
    file.write_text(content)
    with pytest.raises(ValueError, match=reason) as caught:
        read_keys(file)
    assert "topsecret" not in str(caught.value)


def test_a_key_of_the_settings_that_the_file_names_has_the_files_policy(file):
    file.write_text('[[keys]]\nname = "ann"\nkey = "a1"\nmode = "shadow"\n')
    key = key_of("Bearer a1", KeyRing([hash_key("a1")], file))
    assert (key.name, key.change.mode) == ("ann", "shadow")
