"""Pictures that are too large for one piece: purified in tiles, and waited for as one."""

import socket
import threading
import time

import numpy as np
import pytest

from codefend.models.tiles import Tiling
from tests.service.fake_engine import FAIL, HANG_ONCE, KILL_ONCE
from tests.service.pictures import encode, picture, pixels_of, png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form

ABOVE_PX = 200
TILING = Tiling(ABOVE_PX)


@pytest.fixture(scope="module")
def flag(tmp_path_factory):
    return tmp_path_factory.mktemp("flags") / "once"


@pytest.fixture(scope="module")
def tiled(session_upstream, flag):
    settings = make_settings(
        session_upstream.url,
        engine_options={"seconds": 0.02, "flag": str(flag), "suspects": True},
        tile_above_px=ABOVE_PX,
        max_queue=60,
        max_images=8,
        batch_timeout_floor_s=4,
    )
    with run_service(settings) as service:
        yield service


def purify(service, pixels):
    headers = {"accept": "image/png", "content-type": "image/png"}
    return service.client.post("/v1/purify", content=encode(pixels), headers=headers)


def marked_at(pixels, tile, colour):
    """The same picture; the fake engine misbehaves for one of its tiles."""
    pixels = pixels.copy()
    pixels[tile.top, tile.left] = colour
    return pixels


@pytest.mark.parametrize(
    "size",
    [(200, 200), (201, 200), (200, 201), (201, 201), (3, 1000), (1, 201), (500, 640), (333, 777)],
)
def test_every_pixel_comes_back_from_its_own_place(tiled, size):
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    assert np.array_equal(pixels_of(purify(tiled, pixels).content), 255 - pixels)


def test_one_picture_in_a_chat_in_tiles_beside_one_in_one_piece(tiled, upstream):
    from tests.service.test_chat import chat, image_part, user

    sent = [picture(400, 300, seed=1), picture(40, 30, seed=2)]
    body = chat(user(*(image_part(encode(pixels)) for pixels in sent)))
    answer = tiled.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert len(answer.json()["codefend"]["images"]) == 2


def test_tiles_are_counted_in_batches_and_the_picture_once(tiled):
    before = {
        name: tiled.metric(name) for name in ("codefend_batch_size_sum", "codefend_suspicion_count")
    }
    assert purify(tiled, picture(500, 640, seed=3)).status_code == 200
    num_tiles = len(TILING.cut(500, 640))
    assert num_tiles == 12
    assert tiled.metric("codefend_batch_size_sum") == before["codefend_batch_size_sum"] + num_tiles
    assert tiled.metric("codefend_suspicion_count") == before["codefend_suspicion_count"] + 1


def test_one_failed_tile_fails_the_picture_and_its_siblings_leave_the_queue(tiled):
    pixels = picture(500, 640, seed=4)
    response = purify(tiled, marked_at(pixels, TILING.cut(500, 640)[1], FAIL))
    assert response.status_code == 503
    tiled.settle()
    assert len(tiled.runtime.queue) == 0
    assert np.array_equal(pixels_of(purify(tiled, pixels).content), 255 - pixels)


@pytest.mark.slow
@pytest.mark.parametrize("colour", [KILL_ONCE, HANG_ONCE])
def test_a_worker_that_ends_in_the_middle_of_a_picture_costs_only_time(tiled, flag, colour):
    flag.unlink(missing_ok=True)
    pixels = marked_at(picture(500, 640, seed=5), TILING.cut(500, 640)[5], colour)
    assert np.array_equal(pixels_of(purify(tiled, pixels).content), 255 - pixels)


def test_the_tiles_of_a_client_that_left_leave_the_queue(tiled):
    before = tiled.metric("codefend_batch_size_sum")
    file = png(1000, 1000)
    head = "POST /v1/purify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
    with socket.create_connection(tiled.address) as client:
        client.sendall(f"{head}Content-Length: {len(file)}\r\n\r\n".encode() + file)
        tiled.wait_until(lambda: len(tiled.runtime.queue) > 0)
    tiled.wait_until(lambda: tiled.runtime.in_flight.num_inside == 0)
    assert len(tiled.runtime.queue) == 0
    done = tiled.metric("codefend_batch_size_sum") - before
    assert done < len(TILING.cut(1000, 1000))


def test_a_picture_of_more_tiles_than_may_wait_names_the_settings(tiled):
    response = purify(tiled, picture(1500, 1600))
    assert response.status_code == 413
    message = response.json()["error"]["message"]
    assert "81 tiles" in message
    assert "CODEFEND_MAX_QUEUE" in message
    assert "CODEFEND_PURIFY_SIDE_PX" in message


def test_small_pictures_of_the_same_caller_take_turns_with_a_large_one(tiled):
    """The large one needs some thirty batches; a small one waits for one of them at a time."""
    large = picture(1000, 1000, seed=6)
    ended = []

    def send():
        ended.append((purify(tiled, large).status_code, time.monotonic()))

    sending = threading.Thread(target=send)
    sending.start()
    tiled.wait_until(lambda: tiled.runtime.queue.num_running > 0)
    for seed in range(3):
        assert purify(tiled, picture(seed=seed)).status_code == 200
    small_ended_s = time.monotonic()
    sending.join()
    ((status, large_ended_s),) = ended
    assert status == 200
    assert small_ended_s < large_ended_s


def test_the_suspicion_of_a_picture_is_made_of_its_tiles(tiled, upstream):
    plain = np.full((201, 300, 3), 51, np.uint8)
    defense = tiled.client.post("/v1/vqa", **as_form(encode(plain), question="?")).json()["defense"]
    assert defense["suspicion"] == pytest.approx(51 / 255)


def test_a_scaled_picture_costs_what_its_scaled_size_costs(session_upstream):
    settings = make_settings(
        session_upstream.url, purify_side_px=100, max_request_pixels=100 * 100, max_images=8
    )
    pixels = picture(480, 640, seed=7)
    with run_service(settings) as service:
        answer = service.client.post("/v1/purify", **as_form(encode(pixels))).json()
        response = purify(service, pixels)
    assert (answer["width"], answer["height"]) == (100, 75)
    means = pixels[:479].astype(float)  # a pixel of the result covers 6.4 x 6.4
    scaled = 255 - pixels_of(response.content).astype(float)
    assert abs(scaled.mean() - means.mean()) < 1
    assert scaled.shape == (75, 100, 3)


def test_a_turned_picture_is_scaled_and_cut_as_it_is_shown(tiled, session_upstream):
    from PIL import ExifTags, Image

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    shown = np.rot90(picture(300, 500, seed=8), -1)
    file = encode(picture(300, 500, seed=8), exif=exif)
    headers = {"accept": "image/png", "content-type": "image/png"}
    answer = tiled.client.post("/v1/purify", content=file, headers=headers)
    assert np.array_equal(pixels_of(answer.content), 255 - shown)
    settings = make_settings(session_upstream.url, purify_side_px=100)
    with run_service(settings) as service:
        answer = service.client.post("/v1/purify", content=file, headers=headers)
    assert pixels_of(answer.content).shape == (100, 60, 3)
