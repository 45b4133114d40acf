"""Bodies around a file: the ways in which a client may send it, sound and broken."""

import base64
import json
import random

from tests.fuzz.mutations import flip_bits, remove_slice, repeat_slice, truncate

BOUNDARY = "fence"


def wrap(seed, number, image):
    """The n-th body of a seed: its content type and its bytes. Half are the file as it is."""
    chance = random.Random(f"{seed}/{number}/envelope")
    if chance.random() < 0.5:
        return "image/png", image
    content_type, body = chance.choice((_as_json, _as_data_url, _as_form))(image)
    if chance.random() < 0.3:
        body = chance.choice((flip_bits, truncate, repeat_slice, remove_slice))(chance, body)
    if chance.random() < 0.02:
        content_type = flip_bits(chance, content_type.encode()).decode("latin-1")
    return content_type, body


def _as_json(image):
    return "application/json", json.dumps({"image": base64.b64encode(image).decode()}).encode()


def _as_data_url(image):
    url = f"data:image/webp;base64,{base64.b64encode(image).decode()}"
    return "application/json", json.dumps({"image": url, "output_format": "jpeg"}).encode()


def _as_form(image):
    head = (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=output_format\r\n\r\nwebp\r\n"
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    return f"multipart/form-data; boundary={BOUNDARY}", body
