import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codefend.service.processes.pixels import (
    Picture,
    PixelStore,
    bytes_of_lease,
    read_pixels,
    write_pixels,
)
from tests.service.pictures import picture


@pytest.fixture
def store(tmp_path):
    store = PixelStore(tmp_path)
    yield store
    store.close()


def test_two_pictures_share_a_lease(store):
    lease = store.lease(48 * 64)
    write_pixels(lease.name, Picture.DECODED, picture(seed=1))
    write_pixels(lease.name, Picture.PURIFIED, picture(seed=2))
    for place, seed in ((Picture.DECODED, 1), (Picture.PURIFIED, 2)):
        assert np.array_equal(read_pixels(lease.name, place, 48, 64), picture(seed=seed))
    lease.release()


def test_the_last_holder_frees_the_memory(store):
    freed = []
    lease = store.lease(64, lambda: freed.append(True))
    lease.hold()
    lease.release()
    read_pixels(lease.name, Picture.DECODED, 8, 8)
    assert not freed
    lease.release()
    assert freed == [True]
    with pytest.raises(FileNotFoundError):
        read_pixels(lease.name, Picture.DECODED, 8, 8)
    with pytest.raises(FileNotFoundError):
        write_pixels(lease.name, Picture.DECODED, picture(8, 8))
    with pytest.raises(FileNotFoundError):
        lease.write(Picture.DECODED, picture(8, 8))


def test_a_picture_that_does_not_fit_is_refused(store):
    lease = store.lease(64)
    try:
        with pytest.raises((TypeError, ValueError)):
            # Far beyond the segment: a page of it is never enough for this one.
            read_pixels(lease.name, Picture.PURIFIED, 1000, 1000)
    finally:
        lease.release()


def test_the_service_writes_what_its_children_read(store):
    lease = store.lease(48 * 64)
    lease.write(Picture.PURIFIED, picture(seed=3)[:, ::-1])
    assert np.array_equal(
        read_pixels(lease.name, Picture.PURIFIED, 48, 64), picture(seed=3)[:, ::-1]
    )
    lease.release()


def test_memory_is_reserved_when_it_is_leased(store):
    lease = store.lease(1_000_000)
    assert 512 * Path(lease.name).stat().st_blocks >= bytes_of_lease(1_000_000)
    lease.release()


def test_a_store_leaves_nothing_behind(tmp_path):
    store = PixelStore(tmp_path)
    store.lease(64)
    store.close()
    store.close()
    PixelStore(tmp_path)  # and nobody keeps it
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from codefend.service.processes.pixels import PixelStore
store = PixelStore(Path(sys.argv[1]))
store.lease(64)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed_by_the_next_and_what_lives_is_not(store, tmp_path):
    living = store.lease(64)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert len(list(tmp_path.iterdir())) == 2
    other = PixelStore(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        store.directory.name,
        other.directory.name,
    }
    read_pixels(living.name, Picture.DECODED, 8, 8)
    other.close()
