"""Code that runs inside a decode process and wants out: nothing works, and decoding still does."""

import os
from pathlib import Path

import numpy as np
import pytest

from codefend.service.decode.picture import PictureLimits
from codefend.service.decode.process import DecodeConfig
from codefend.service.processes.child import Child
from codefend.service.processes.pixels import Picture, PixelStore, read_pixels
from tests.service.pictures import picture, png
from tests.service.sandbox.escapes import (
    ESCAPES,
    SECRET,
    UNSURE_OR_HARMFUL,
    make_confined_handler,
    make_handler_with_threads,
    make_plain_handler,
)

pytestmark = pytest.mark.slow

START_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text(SECRET)
    (folder / "victim").write_text("whole")
    return folder


def started(child):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUARD_TEST_KEY", SECRET)
        child.launch()
    return child.wait_until_ready(START_S)


@pytest.fixture(scope="module")
def store():
    store = PixelStore()
    yield store
    store.close()


@pytest.fixture(scope="module", params=[make_confined_handler, make_handler_with_threads])
def confined(store, request):
    limits = PictureLimits(1_000_000, 10_000)
    config = DecodeConfig(limits, 1 << 30, 20, str(store.directory))
    child = Child("confined", request.param, config, is_single_threaded=True)
    missing = started(child)["unconfined"]
    if missing:
        child.stop()
        pytest.skip(f"this kernel lacks layers: {missing}")
    child.may_start_threads = request.param is make_handler_with_threads
    yield child
    child.stop()


@pytest.fixture(scope="module")
def plain():
    child = Child("plain", make_plain_handler, None)
    started(child)
    yield child
    child.stop()


def attempt(child, name, folder):
    (folder / "to-remove").touch()
    for made in (folder / "new", folder / "made"):
        if made.exists():
            made.rmdir() if made.is_dir() else made.unlink()
    return child.call({"escape": name, "folder": str(folder)}, b"", 30)[0]["refused"]


@pytest.mark.parametrize("name", ESCAPES)
def test_no_escape_and_decoding_goes_on(confined, store, folder, name):
    refused = attempt(confined, name, folder)
    # A thread has no more rights than its process.
    assert refused is not None or (name == "thread" and confined.may_start_threads)
    lease = store.lease(10_000)
    try:
        meta = {"content_type": "image/png", "decodes": True}
        reply = {"pixels": lease.name}
        assert confined.call(meta, png(), 30, lambda _: reply)[0]["height"] == 48
        assert np.array_equal(read_pixels(lease.name, Picture.DECODED, 48, 64), picture())
    finally:
        lease.release()
    assert (folder / "victim").read_text() == "whole"


@pytest.mark.parametrize("name", sorted(ESCAPES.keys() - UNSURE_OR_HARMFUL))
def test_without_confinement_the_same_attempts_get_through(plain, folder, name):
    try:
        assert attempt(plain, name, folder) is None
    finally:
        (folder / "victim").write_text("whole")


def test_what_the_kernel_says_of_a_confined_process(confined):
    lines = Path(f"/proc/{confined.pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert status["Threads"].strip() == "1"
    assert SECRET.encode() not in Path(f"/proc/{confined.pid}/environ").read_bytes()


def test_the_wish_for_one_thread_stays_with_the_child(monkeypatch):
    for before in (None, "3"):
        if before is None:
            monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
        child = Child("brief", make_plain_handler, None, is_single_threaded=True)
        child.launch()
        assert os.environ.get("OPENBLAS_NUM_THREADS") == before
        child.stop()
