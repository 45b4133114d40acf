"""Every bomb and oddity in a real decode process: a clear answer, bounded memory, no death."""

import time

import pytest

from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.decode.process import DecodeConfig, make_decoder
from codefend.service.errors import RequestRefused
from codefend.service.formats.containers import walk_riff
from codefend.service.formats.table import FORMATS
from codefend.service.processes.child import Child
from codefend.service.processes.pixels import PixelStore
from codefend.service.settings import Settings
from tests.fuzz.tally import read_rss
from tests.service.decode.bombs import DECODED, MEBIBYTE, RAW, bombs, dearest_pictures
from tests.service.pictures import encode, heic, picture, png

pytestmark = pytest.mark.slow

SETTINGS = Settings()
START_S = 60
# A bomb may cost its own bytes twice over, and Pillow's own allowance for texts; nothing by pixels.
BOMB_BYTES = 160 * MEBIBYTE
# Four pictures of 25 megapixels with alpha, and the one that is handed over.
PICTURE_BYTES = 640 * MEBIBYTE


class Decoder:
    def __init__(self, settings):
        limits, memory_bytes = PictureLimits.of(settings), settings.decode_memory_bytes
        self.store = PixelStore()
        config = DecodeConfig(
            limits, memory_bytes, settings.decode_cpu_s, str(self.store.directory)
        )
        self.child = Child("bombed", make_decoder, config, is_single_threaded=True)
        self.child.launch()
        self.child.wait_until_ready(START_S)
        self.pid = self.child.pid
        self.idle_bytes = read_rss(self.pid)[0]
        self.reply = {"pixels": self.store.lease(settings.max_pixels).name}

    def decode(self, content_type, body):
        meta = {"content_type": content_type, "decodes": True}
        answer, _ = self.child.call(meta, body, 300, lambda _: self.reply)
        return answer.get("refused", DECODED)

    def peak_bytes(self):
        """The most that it ever had beyond what it has when it is idle."""
        return read_rss(self.pid)[1] - self.idle_bytes


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder(SETTINGS)
    yield decoder
    decoder.child.stop()
    decoder.store.close()


# The dearest come last: the most that a process ever had can only grow.
def test_bombs(decoder, subtests):
    for name, content_type, body, outcomes in bombs():
        with subtests.test(name):
            assert decoder.decode(content_type, body) in outcomes
            assert decoder.child.pid == decoder.pid, "the process died"
            assert decoder.peak_bytes() < BOMB_BYTES


def test_the_dearest_pictures(decoder, subtests):
    for name, image in dearest_pictures():
        with subtests.test(name):
            assert decoder.decode(RAW, image) == DECODED
            assert decoder.child.pid == decoder.pid, "the process died"
            assert decoder.peak_bytes() < PICTURE_BYTES


def test_memory_is_given_back(decoder):
    assert decoder.decode(RAW, png()) == DECODED
    assert read_rss(decoder.pid)[0] - decoder.idle_bytes < BOMB_BYTES


def test_beyond_its_memory_it_refuses_and_lives():
    decoder = Decoder(SETTINGS.model_copy(update={"decode_memory_bytes": 384 * MEBIBYTE}))
    try:
        image = next(image for _, image in dearest_pictures())
        assert decoder.decode(RAW, image) == "image_too_large"
        assert decoder.decode(RAW, png()) == DECODED
    finally:
        decoder.child.stop()
        decoder.store.close()


@pytest.mark.parametrize(
    ("limits", "image", "what"),
    [
        ({"max_pixels": 3071}, png(), "64x48"),
        ({"max_side_px": 63}, png(), "63 pixels"),
        ({"max_jpeg_scans": 5}, encode(picture(), "JPEG", progressive=True), "5 scans"),
        ({"max_file_parts": 2}, png(), "2 parts"),
        ({"max_file_parts": 5}, encode(picture(), "JPEG"), "5 parts"),
        ({"max_file_parts": 1}, encode(picture(), "GIF"), "1 parts"),
        ({"max_file_parts": 9}, encode(picture(), "AVIF"), "9 parts"),
        ({"max_pixels": 3071}, encode(picture(), "GIF"), "64x48"),
        ({"max_pixels": 3071}, encode(picture(), "AVIF"), "64x48"),
        ({"max_pixels": 4095}, heic(picture(64, 64)), "64x64"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_limit_of_a_picture_is_a_setting(limits, image, what):
    with pytest.raises(RequestRefused, match=what) as refusal:
        decode_picture(image, PictureLimits.of(SETTINGS.model_copy(update=limits)))
    assert refusal.value.status == 413
    decode_picture(image, PictureLimits.of(SETTINGS))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}])
def test_a_canvas_is_read_as_pillow_reads_it(options):
    layout = walk_riff(encode(picture(30, 70), "WEBP", **options), 100)
    assert (layout.width, layout.height) == (70, 30)


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_a_walk_through_a_file_ends_wherever_the_file_does(row):
    image = heic(picture()) if row.name == "HEIC" else encode(picture(), row.name)
    for end in range(len(image)):
        assert row.walk(image[:end], 1000).num_parts <= 1000


def test_a_walk_costs_little_however_the_file_is_made():
    started_s = time.process_time()
    for filling in (b"\xff\xe1\0\2", b"\xff", b"\0", b"\xff\0", b"\xff\xd0", b"\xff\xda\0\2"):
        FORMATS["JPEG"].walk(b"\xff\xd8" + filling * 2_000_000, 65_536)
    for filling in (b"\0", b"!\xfe\0", b"\1\0", b",\0\0\0\0\1\0\1\0\0\2", b"\xff"):
        FORMATS["GIF"].walk(b"GIF89a" + bytes(7) + filling * 2_000_000, 65_536)
        FORMATS["GIF"].walk(b"GIF89a" + bytes(7) + b",!" + bytes(9) + filling * 2_000_000, 65_536)
    for filling in (b"\0\0\0\x08free", b"\0\0\0\x08meta", bytes(8), b"\0\0\0\x10meta" * 2):
        FORMATS["AVIF"].walk(b"\0\0\0\x10ftypavif" + bytes(4) + filling * 2_000_000, 65_536)
    assert time.process_time() - started_s < 20


def test_the_limits_hold_without_settings_too():
    assert PictureLimits.of(SETTINGS) == PictureLimits(SETTINGS.max_pixels, SETTINGS.max_side_px)
