"""What looks attacked is kept sealed, for its time and within its room, as the policy says."""

import hashlib
import io
import json
import os
import zipfile

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from codefend.service.cli import app
from codefend.service.quarantine import SUFFIX, Vault
from codefend.service.sealing import check_public_key, make_key, open_sealed, seal
from codefend.service.settings import MEBIBYTE
from tests.service.pictures import encode, picture, pixels_of
from tests.service.running import make_settings, run_service

KEYS = """
[[keys]]
name = "agreed"
key = "first"

[[keys]]
name = "refused"
key = "second"
quarantine = "none"
"""


@pytest.fixture
def private_key(tmp_path):
    return tmp_path / "private.key"


@pytest.fixture
def public_key(private_key):
    return make_key(private_key)


def attacked(seed=0):
    pixels = picture(seed=seed).copy()
    pixels[-1, -1] = 255  # which is what the engine of tests suspects
    return pixels


def sealed_in(directory):
    return sorted(directory.glob(f"*{SUFFIX}"))


def test_what_is_sealed_only_the_private_key_opens(tmp_path, private_key, public_key):
    sealed = seal({"a": b"first", "b": b"second"}, public_key)
    assert b"first" not in sealed
    assert open_sealed(sealed, private_key) == {"a": b"first", "b": b"second"}
    make_key(tmp_path / "other.key")
    for key, spoiled in ((tmp_path / "other.key", sealed), (private_key, sealed[:-1] + b"?")):
        with pytest.raises(ValueError, match="does not open it"):
            open_sealed(spoiled, key)
    assert private_key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        make_key(private_key)


@pytest.mark.parametrize("text", ["", "x", "AAAA", "not base64 at all"])
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(ValueError, match="codefend quarantine keygen"):
        check_public_key(text)


def test_a_vault_keeps_its_bound_and_its_time(tmp_path, public_key):
    now = [1000.0]
    vault = Vault(tmp_path / "vault", public_key, 5000, 60.0, lambda: now[0])
    vault.prepare()
    assert vault.directory.stat().st_mode & 0o777 == 0o700
    assert vault.put({"a": os.urandom(3000)})
    assert not vault.put({"a": os.urandom(3000)})  # what is kept stays
    assert 3000 < vault.num_bytes() <= 5000
    (first,) = sealed_in(vault.directory)
    assert first.stat().st_mode & 0o777 == 0o600
    now[0] += 59.0
    assert vault.sweep() == pytest.approx(1.0, abs=0.01)
    assert sealed_in(vault.directory) == [first]
    now[0] += 1.0
    vault.sweep()
    assert list(vault.directory.iterdir()) == []
    assert vault.put({"a": os.urandom(3000)})


def test_what_a_killed_service_left_half_written_goes_too(tmp_path, public_key):
    vault = Vault(tmp_path, public_key, 5000, 60.0)
    (tmp_path / "x.unfinished").write_bytes(b"half")
    os.utime(tmp_path / "x.unfinished", (0, 0))
    (tmp_path / "not-ours.txt").write_text("stays")
    os.utime(tmp_path / "not-ours.txt", (0, 0))
    vault.sweep()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["not-ours.txt", "private.key"]


def test_it_is_off_unless_set_and_needs_a_place_and_a_key(tmp_path, public_key):
    assert make_settings().quarantine == "none"
    with pytest.raises(ValidationError, match="CODEFEND_QUARANTINE_DIRECTORY"):
        make_settings(quarantine="flagged", quarantine_key=public_key)
    (tmp_path / "keys.toml").write_text(KEYS.replace('"none"', '"flagged"'))
    with pytest.raises(ValidationError, match="CODEFEND_QUARANTINE_KEY"):
        make_settings(api_keys_file=tmp_path / "keys.toml")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["enforce", "shadow"])
def test_flagged_images_are_kept_and_nothing_of_them_can_be_read(
    upstream, tmp_path, private_key, public_key, mode
):
    directory = tmp_path / "vault"
    (tmp_path / "keys.toml").write_text(KEYS)
    settings = make_settings(
        upstream.url,
        engine_options={"suspects": True},
        mode=mode,
        api_keys_file=tmp_path / "keys.toml",
        quarantine="flagged",
        quarantine_directory=directory,
        quarantine_key=public_key,
        quarantine_lifetime_s=4,
    )
    file = encode(attacked())
    with run_service(settings) as service:

        def ask(content, key):
            headers = {"content-type": "image/png", "authorization": f"Bearer {key}"}
            answer = service.client.post("/v1/purify", content=content, headers=headers)
            assert answer.status_code == 200
            return answer.headers["x-request-id"]

        ask(encode(picture()), "first")
        ask(encode(attacked(1)), "second")
        request_id = ask(file, "first")
        service.wait_until(lambda: service.metric("codefend_quarantine_total", outcome="kept"))
        (kept,) = sealed_in(directory)
        sealed = kept.read_bytes()
        assert service.metric("codefend_quarantine_bytes") == len(sealed)
        # The memory that its pixels took is free again.
        service.wait_until(lambda: service.metric("codefend_held_bytes") == 0)
        found = open_sealed(sealed, private_key)
        service.wait_until(lambda: not sealed_in(directory), 10)
    assert np.array_equal(pixels_of(found["original.png"]), attacked())
    assert np.array_equal(pixels_of(found["purified.png"]), 255 - attacked())
    event = json.loads(found["event.json"])
    assert event["request_id"] == request_id
    assert event["caller"] == "agreed"
    assert event["mode"] == mode
    assert event["sha256"] == hashlib.sha256(file).hexdigest()
    for plain in (b"PNG", b"IHDR", b"agreed", event["sha256"].encode(), request_id.encode()):
        assert plain not in sealed
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(sealed))


@pytest.mark.slow
def test_what_finds_no_room_is_counted_and_its_request_goes_on(upstream, tmp_path, public_key):
    directory = tmp_path / "vault"
    directory.mkdir()
    (directory / f"old{SUFFIX}").write_bytes(bytes(MEBIBYTE))
    settings = make_settings(
        upstream.url,
        engine_options={"suspects": True},
        quarantine="flagged",
        quarantine_directory=directory,
        quarantine_key=public_key,
        quarantine_max_bytes=MEBIBYTE,
    )
    with run_service(settings) as service:
        headers = {"content-type": "image/png"}
        answer = service.client.post("/v1/purify", content=encode(attacked()), headers=headers)
        assert answer.status_code == 200
        service.wait_until(lambda: service.metric("codefend_quarantine_total", outcome="full"))
        assert len(sealed_in(directory)) == 1


def test_the_commands_make_keys_and_open_what_is_sealed(tmp_path):
    run, key = CliRunner(), tmp_path / "private.key"
    made = run.invoke(app, ["quarantine", "keygen", str(key)])
    assert made.exit_code == 0
    public_key = made.output.strip().removeprefix("CODEFEND_QUARANTINE_KEY=")
    assert run.invoke(app, ["quarantine", "keygen", str(key)]).exit_code == 2
    vault = Vault(tmp_path / "vault", public_key, 5000, 60.0)
    vault.prepare()
    vault.put({"original.png": b"one", "../../outside": b"two"})
    target = tmp_path / "opened"
    assert (
        run.invoke(
            app, ["quarantine", "open", str(key), str(vault.directory), str(target)]
        ).exit_code
        == 0
    )
    (folder,) = target.iterdir()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        "original.png": b"one",
        "outside": b"two",
    }
    (vault.directory / f"z{SUFFIX}").write_bytes(b"nonsense")
    again = run.invoke(
        app, ["quarantine", "open", str(key), str(vault.directory), str(tmp_path / "b")]
    )
    assert again.exit_code == 1
