"""What a conversation with several images leaves behind when it is not answered."""

import json
import os
import signal
import socket

from tests.service.pictures import png
from tests.service.test_chat import PATH, chat, image_part, text_part, user


def test_a_client_that_leaves_takes_all_its_images_along(service, leases):
    body = json.dumps(chat(user(*(image_part(png(seed=seed)) for seed in range(8))))).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        service.wait_until(lambda: len(service.runtime.queue) > 0)
    service.wait_until(lambda: service.runtime.in_flight.num_inside == 0)
    service.wait_until(lambda: not any(lease._num_holders for lease in leases))
    assert len(leases) == 8
    assert len(service.runtime.queue) == 0


def test_a_decode_process_that_dies_over_a_conversation_costs_nobody_an_answer(service):
    body = chat(user(text_part("word " * 10_000), image_part(png())))
    os.kill(service.runtime._images.decode.pids[0], signal.SIGKILL)
    assert service.client.post(PATH, json=body).status_code == 200
