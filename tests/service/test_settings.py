import os

import pytest
from pydantic import ValidationError

from codefend.service.credentials import hash_key
from codefend.service.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("CODEFEND_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_loopback_needs_no_key(host):
    assert Settings(host=host).api_keys == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_any_other_address_is_refused_without_a_key(host):
    with pytest.raises(ValidationError, match="CODEFEND_API_KEYS"):
        Settings(host=host)
    assert Settings(host=host, api_keys="k").host == host


def test_secrets_leave_the_environment_and_stay_out_of_sight(monkeypatch):
    monkeypatch.setenv("CODEFEND_API_KEYS", "first-secret, second-secret")
    monkeypatch.setenv("CODEFEND_UPSTREAM_KEY", "third-secret")
    monkeypatch.setenv("CODEFEND_DEVICES", "cpu,cuda:0")
    settings = load_settings()
    assert [key.get_secret_value() for key in settings.api_keys] == [
        hash_key("first-secret"),
        hash_key("second-secret"),
    ]
    assert settings.devices == ("cpu", "cuda:0")
    assert "CODEFEND_API_KEYS" not in os.environ
    assert "CODEFEND_UPSTREAM_KEY" not in os.environ
    assert "secret-" not in repr(settings)
    assert "-secret" not in settings.model_dump_json()


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    "values",
    [
        {"upstream_url": "ftp://x"},
        {"port": 70000},
        {"mode": "maybe"},
        {"unknown": 1},
        {"cors_origins": "https://a.example/"},
        {"cors_origins": "https://a.example:443"},
        {"cors_origins": "https://A.example"},
        {"cors_origins": "https://*.example"},
        {"cors_origins": "a.example"},
        {"cors_origins": "null"},
        {"cors_origins": "*"},
        {"max_images": 9, "max_queue": 8},
    ],
)
def test_malformed_settings_are_refused(values):
    with pytest.raises(ValidationError):
        Settings(**values)


def test_a_file_of_keys_is_as_good_as_keys(tmp_path):
    file = tmp_path / "keys.toml"
    with pytest.raises(ValidationError, match="cannot be read"):
        Settings(api_keys_file=file)
    file.write_text('[[keys]]\nname = "ann"\nkey = "k"\n')
    assert Settings(host="0.0.0.0", api_keys_file=file).api_keys_file == file


@pytest.mark.parametrize("keys", ["a b", "sound,schlüssel", ",", " , ", "sound,x\x7fx"])
def test_keys_that_could_never_match_are_refused(monkeypatch, keys):
    monkeypatch.setenv("CODEFEND_API_KEYS", keys)
    with pytest.raises(
        ValidationError, match=r"no request could ever match|holds no key"
    ) as raised:
        load_settings()
    assert "schlüssel" not in str(raised.value.errors(include_input=False, include_url=False))


def test_white_space_between_keys_is_not_part_of_them(monkeypatch):
    monkeypatch.setenv("CODEFEND_API_KEYS", " a , b,")
    assert [key.get_secret_value() for key in load_settings().api_keys] == [
        hash_key("a"),
        hash_key("b"),
    ]


def test_every_origin_is_for_a_service_with_keys():
    assert Settings(cors_origins="*", api_keys="k").cors_origins == ("*",)
    with pytest.raises(ValidationError, match="CODEFEND_API_KEYS"):
        Settings(cors_origins="*")
    listed = "https://a.example, http://localhost:3000, app://b, http://[::1]:8080"
    assert len(Settings(cors_origins=listed).cors_origins) == 4
