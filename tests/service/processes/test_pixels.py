import numpy as np
import pytest

from service.processes.pixels import Picture, lease_pixels, read_pixels, write_pixels
from tests.service.pictures import picture


def test_two_pictures_share_a_lease():
    lease = lease_pixels(48 * 64)
    write_pixels(lease.name, Picture.DECODED, picture(seed=1))
    write_pixels(lease.name, Picture.PURIFIED, picture(seed=2))
    for place, seed in ((Picture.DECODED, 1), (Picture.PURIFIED, 2)):
        assert np.array_equal(read_pixels(lease.name, place, 48, 64), picture(seed=seed))
    lease.release()


def test_the_last_holder_frees_the_memory():
    lease = lease_pixels(64)
    lease.hold()
    lease.release()
    read_pixels(lease.name, Picture.DECODED, 8, 8)
    lease.release()
    with pytest.raises(FileNotFoundError):
        read_pixels(lease.name, Picture.DECODED, 8, 8)


def test_a_picture_that_does_not_fit_is_refused():
    lease = lease_pixels(64)
    try:
        with pytest.raises((TypeError, ValueError)):
            # Far beyond the segment: a page of it is never enough for this one.
            read_pixels(lease.name, Picture.PURIFIED, 1000, 1000)
    finally:
        lease.release()
