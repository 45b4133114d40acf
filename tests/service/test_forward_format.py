"""What file the model gets, and that clients get the very same one unless they ask for another."""

import base64
import json

import numpy as np
import pytest

from codefend.models.codec import ImageFormat, data_url, encode_image
from codefend.service.encode.stage import make_encoder
from codefend.service.policy import Mode
from codefend.service.processes.pixels import Picture, PixelStore
from tests.service.pictures import encode, picture, pixels_of, png
from tests.service.test_api import as_form, as_json, from_data_url

PURIFIED = 255 - picture()
UPLOAD = encode(picture())
WRITTEN = {each: data_url(encode_image(PURIFIED, each), each) for each in ImageFormat}


def forwarded(upstream, number=-1):
    return json.loads(upstream.bodies[number])["messages"][0]["content"][0]["image_url"]["url"]


def chat(service, *, return_image):
    part = {"type": "image_url", "image_url": {"url": data_url(UPLOAD, ImageFormat.PNG)}}
    content = [part, {"type": "text", "text": "What is it?"}]
    body = {
        "messages": [{"role": "user", "content": content}],
        "codefend": {"return_image": return_image},
    }
    return service.client.post("/v1/chat/completions", json=body).json()["codefend"]["images"][0]


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_model_and_client_get_the_same_file(service, upstream, image_format):
    with service.changed(forward_format=image_format):
        asked = service.client.post("/v1/vqa", **as_json(UPLOAD, question="?")).json()
        shown = chat(service, return_image=True)
        alone = service.client.post("/v1/purify", **as_json(UPLOAD)).json()
        bare = service.client.post("/v1/purify", **as_form(UPLOAD), headers={"accept": "image/*"})
    assert {forwarded(upstream, number) for number in (0, 1)} == {WRITTEN[image_format]}
    assert asked["purified_image"] == shown["purified_image"] == WRITTEN[image_format]
    assert alone["purified_image"] == WRITTEN[image_format]
    assert bare.headers["content-type"] == image_format.media_type
    assert bare.content == from_data_url(WRITTEN[image_format])[1]


def test_another_format_is_had_by_asking(service, upstream):
    with service.changed(forward_format=ImageFormat.JPEG):
        fields = as_json(UPLOAD, output_format="webp")
        named = service.client.post("/v1/purify", **fields).json()
        accept = {"accept": "image/png"}
        accepted = service.client.post("/v1/purify", **as_form(UPLOAD), headers=accept)
    assert named["purified_image"] == WRITTEN[ImageFormat.WEBP]
    assert accepted.content == from_data_url(WRITTEN[ImageFormat.PNG])[1]


def test_without_its_copy_the_image_is_purified_all_the_same(service, upstream):
    before = service.metric("codefend_stage_duration_seconds_count", stage="purify")
    report = chat(service, return_image=False)
    assert "purified_image" not in report
    assert forwarded(upstream) == WRITTEN[ImageFormat.PNG]
    assert service.metric("codefend_stage_duration_seconds_count", stage="purify") == before + 1


def test_a_guard_gets_the_file_that_the_model_would(service):
    with service.changed(forward_format=ImageFormat.JPEG):
        images = [base64.b64encode(UPLOAD).decode()]
        answer = service.client.post("/v1/guardrail", json={"images": images}).json()
    assert answer["images"] == [WRITTEN[ImageFormat.JPEG]]


def test_an_original_keeps_every_pixel(service, upstream):
    """In shadow mode the model gets what was sent, whatever purified images are written as."""
    with service.changed(mode=Mode.SHADOW, forward_format=ImageFormat.JPEG):
        answer = service.client.post("/v1/vqa", **as_json(UPLOAD, question="?")).json()
    header, original = from_data_url(forwarded(upstream))
    assert header == "data:image/png;base64"
    assert np.array_equal(pixels_of(original), picture())
    assert answer["purified_image"] == WRITTEN[ImageFormat.JPEG]


@pytest.mark.parametrize("quality", [60, 95])
def test_a_process_writes_jpegs_of_its_quality(quality, tmp_path):
    pixels = pixels_of(png(32, 48))
    store = PixelStore(tmp_path)
    lease = store.lease(pixels.size // 3)
    lease.write(Picture.PURIFIED, pixels)
    write, _ = make_encoder(quality)
    meta = {"pixels": lease.name, "picture": 1, "height": 32, "width": 48, "format": "jpeg"}
    encoded = encode_image(pixels, ImageFormat.JPEG, quality)
    assert write(meta | {"in_url": False}, b"", None)[1] == encoded
    url = data_url(encoded, ImageFormat.JPEG).encode()
    assert write(meta | {"in_url": True}, b"", None)[1] == url
