import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codefend.models.tiles import Tiling
from codefend.service.processes.pixels import (
    Picture,
    PixelStore,
    bytes_of_lease,
    lay_tile,
    read_pixels,
    read_tile,
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


def test_tiles_are_read_and_laid_in_place_and_once(store):
    tiling, size = Tiling(100, 64, 8), (150, 130)
    tiles, pixels = tiling.cut(*size), picture(*size)
    lease = store.lease(150 * 130, num_tiles=len(tiles))
    write_pixels(lease.name, Picture.DECODED, pixels)
    for number in reversed(range(len(tiles))):
        tile = read_tile(lease.name, size, tiles[number])
        assert np.array_equal(tile, pixels[tiles[number].place])
        lay_tile(lease.name, size, tiling, number, tile)
        lay_tile(lease.name, size, tiling, number, np.zeros_like(tile))
    assert np.array_equal(read_pixels(lease.name, Picture.PURIFIED, *size), pixels)
    assert np.array_equal(read_pixels(lease.name, Picture.DECODED, *size), pixels)
    lease.release()


def test_a_tile_of_another_picture_is_refused(store):
    lease = store.lease(64)
    with pytest.raises(ValueError, match="no 1 tiles"):
        lay_tile(lease.name, (9, 8), Tiling(), 0, picture(9, 8))
    lease.release()
    with pytest.raises(FileNotFoundError):
        lay_tile(lease.name, (8, 8), Tiling(), 0, picture(8, 8))


@pytest.mark.slow
def test_two_processes_lay_tiles_one_after_the_other(store):
    """Each reads what lies there before it writes: together, one would lose the other's part."""
    tiling, size = Tiling(100, 64, 32), (64, 200)
    tiles = tiling.cut(*size)
    lease = store.lease(64 * 200, num_tiles=len(tiles))
    script = (
        "import sys, numpy as np\n"
        "from codefend.models.tiles import Tiling\n"
        "from codefend.service.processes.pixels import lay_tile\n"
        "tiling = Tiling(100, 64, 32)\n"
        "for number in map(int, sys.argv[2:]):\n"
        "    pixels = np.full((64, 64, 3), 200, np.uint8)\n"
        "    lay_tile(sys.argv[1], (64, 200), tiling, number, pixels)\n"
    )
    numbers = [str(number) for number in range(len(tiles))]
    laying = [
        subprocess.Popen([sys.executable, "-c", script, lease.name, *part])
        for part in (numbers[::2], numbers[1::2])
    ]
    assert [process.wait() for process in laying] == [0, 0]
    assert np.all(read_pixels(lease.name, Picture.PURIFIED, *size) == 200)
    lease.release()
