"""What a request holds of the API process's memory: no image lies in it twice in one form."""

import gc
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from codefend.models.codec import ImageFormat, data_url, encode_image

NOISE = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
FILE = encode_image(NOISE)
IN_JSON = {"content-type": "application/json"}
CLIENT = """
import http.client, json, sys
address, path, headers, file = sys.argv[1:]
connection = http.client.HTTPConnection(address, timeout=60)
connection.request("POST", path, open(file, "rb").read(), json.loads(headers))
answer = connection.getresponse()
print(answer.status, len(answer.read()))
"""


@pytest.fixture
def ask(service, tmp_path):
    """Asks from another process, and counts what is held meanwhile, in files."""

    def ask(path, headers, body):
        (tmp_path / "body").write_bytes(body)
        address = ":".join(map(str, service.address))
        command = [sys.executable, "-c", CLIENT, address, path, json.dumps(headers)]
        command.append(str(tmp_path / "body"))

        def send():
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            status, num_bytes = map(int, done.stdout.split())
            assert status == 200
            return num_bytes

        send()
        # What else the process does meanwhile, another test's end for one, adds to a peak, and
        # never takes from it: the smallest of three is the request's own.
        peaks = []
        for _ in range(3):
            gc.collect()
            tracemalloc.start()
            try:
                num_bytes = send()
                peaks.append(tracemalloc.get_traced_memory()[1] / len(FILE))
            finally:
                tracemalloc.stop()
        return min(peaks), num_bytes

    return ask


@pytest.mark.slow
def test_a_bare_image_comes_in_and_goes_out(ask):
    files, num_bytes = ask("/v1/purify", {"content-type": "image/png", "accept": "image/png"}, FILE)
    assert num_bytes > 0.9 * len(FILE)
    assert files < 2.6  # it, and the answer


@pytest.mark.slow
def test_an_answer_in_json_is_written_once(ask):
    files, num_bytes = ask("/v1/purify", {"content-type": "image/png"}, FILE)
    assert num_bytes > 1.2 * len(FILE)
    assert files < 4.2  # the file, the purified one as a URL, and the answer around that


@pytest.mark.slow
def test_a_list_of_images_is_written_once(ask):
    body = json.dumps({"images": [data_url(FILE, ImageFormat.PNG)]}).encode()
    files, _ = ask("/v1/guardrail", IN_JSON, body)
    assert files < 5.6
