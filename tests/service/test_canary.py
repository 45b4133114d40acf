"""Whatever the shape of a conversation, the model sees its own images, and purified ones only.

The upstream checks every image it gets: that this run's purifier signed it, that nobody has seen
the same signature before, and that it is the very image that its owner sent at this place.
"""

import base64
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from codefend.service.policy import Mode
from codefend.service.protocols.base import all_protocols
from tests.service.canary import IMPORT_PATH, read_canary, read_signature
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import pixels_of
from tests.service.running import make_settings, run_service
from tests.service.spoken import CHAT, OWNERS, SPOKEN, Owner, pictures_in, says, texts_in

pytestmark = pytest.mark.slow

# No text of a test's is so long without a space; an image is.
LONGEST_WORD = 200
SHAPES = [
    pytest.param(spoken, shape, stream, id=f"{spoken.path} {shape}{' streamed' * stream}")
    for spoken in SPOKEN.values()
    for shape in spoken.shapes
    for stream in spoken.streams
]


class Witness:
    """The upstream's reply: it looks at every request and answers it."""

    def __init__(self, key):
        self.key = key
        self.complaints = []
        self.num_images = 0
        self.num_requests = 0
        self._nonces = set()

    def __call__(self, handler, document):
        self.num_requests += 1
        texts = list(texts_in(document))
        marks = (text for text in texts if text.startswith("owner-"))
        owner = int(next(marks).removeprefix("owner-"))
        images = list(pictures_in(document))
        for number, encoded in enumerate(images):
            self._look_at(encoded, owner, number)
        self.num_images += len(images)
        if sum(len(text) > LONGEST_WORD and " " not in text for text in texts) != len(images):
            self.complaints.append("an image where none belongs")
        SPOKEN.get(handler.path, CHAT).answer(handler, document)

    def _look_at(self, encoded, owner, number):
        pixels = pixels_of(base64.b64decode(encoded))
        nonce = read_signature(pixels, self.key)
        if nonce is None:
            self.complaints.append("not purified")
        elif nonce in self._nonces:
            self.complaints.append("purified for another job")
        self._nonces.add(nonce)
        if read_canary(pixels) != (owner, number):
            self.complaints.append(f"{read_canary(pixels)} in the place of {(owner, number)}")


@pytest.fixture(scope="module")
def key():
    return secrets.token_hex(16)


@pytest.fixture(scope="module")
def canary_upstream():
    with run_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def canary_service(canary_upstream, key):
    settings = make_settings(
        canary_upstream.url, engine=IMPORT_PATH, engine_options={"key": key}, decode_workers=2
    )
    with run_service(settings) as service:
        yield service


@pytest.fixture
def witness(canary_upstream, key):
    canary_upstream.reply = Witness(key)
    return canary_upstream.reply


def play(service, spoken, shape, *, stream=False):
    """Plays one conversation; returns its owner and the response."""
    owner = Owner()
    body = spoken.body(spoken.shapes[shape](owner), stream=stream)
    return owner, service.client.post(spoken.path, json=body)


def test_every_protocol_is_spoken():
    assert set(SPOKEN) == set(all_protocols())


@pytest.mark.parametrize(("spoken", "shape", "stream"), SHAPES)
def test_every_image_is_purified_and_stays_in_its_place(
    canary_service, witness, spoken, shape, stream
):
    owner, response = play(canary_service, spoken, shape, stream=stream)
    assert response.status_code == 200
    assert "seen" in response.text
    assert "codefend" in response.text
    assert witness.complaints == []
    assert witness.num_images == owner.num_images


def test_many_conversations_at_once_do_not_mix(canary_service, witness):
    plays = [param.values for param in SHAPES] * 2
    with ThreadPoolExecutor(12) as threads:
        futures = [
            threads.submit(play, canary_service, spoken, shape, stream=stream)
            for spoken, shape, stream in plays
        ]
        outcomes = [future.result() for future in futures]
    assert {response.status_code for _, response in outcomes} == {200}
    assert witness.complaints == []
    assert witness.num_images == sum(owner.num_images for owner, _ in outcomes)
    assert witness.num_requests == len(plays)


@pytest.mark.parametrize("path", ["/v1/vqa", "/v1/caption"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_questions_are_under_watch_too(canary_service, witness, path, stream):
    owner = Owner()
    field = {"/v1/vqa": "question", "/v1/caption": "prompt"}[path]
    body = {"image": owner.url(), field: f"owner-{owner.id}", "stream": stream}
    assert canary_service.client.post(path, json=body).status_code == 200
    assert (witness.complaints, witness.num_images) == ([], 1)


REFUSED = [
    pytest.param(spoken, kind, stream, id=f"{spoken.path} {kind}{' streamed' * stream}")
    for spoken in SPOKEN.values()
    for kind in spoken.refused
    for stream in spoken.streams
]


@pytest.mark.parametrize("role", ["user", "tool"])
@pytest.mark.parametrize(("spoken", "kind", "stream"), REFUSED)
def test_what_cannot_be_purified_is_refused_and_not_passed(
    canary_service, witness, spoken, kind, role, stream
):
    owner = Owner()
    messages = [*spoken.shapes["one image"](owner), says(role, spoken.refused[kind](owner))]
    response = canary_service.client.post(spoken.path, json=spoken.body(messages, stream=stream))
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(f"{spoken.field}[1].content[0]")
    assert witness.num_requests == 0


@pytest.mark.parametrize("spoken", SPOKEN.values(), ids=SPOKEN.keys())
def test_the_witness_tells_originals_and_strangers(canary_service, witness, spoken):
    with canary_service.changed(mode=Mode.SHADOW):
        assert play(canary_service, spoken, "one image")[1].status_code == 200
    assert witness.complaints == ["not purified"]
    witness.complaints.clear()
    stolen = Owner()
    stolen.id, stolen.text = next(OWNERS), lambda: {"type": "text", "text": "owner-1"}
    body = spoken.body(spoken.shapes["one image"](stolen))
    assert canary_service.client.post(spoken.path, json=body).status_code == 200
    assert witness.complaints == [f"{(stolen.id, 0)} in the place of (1, 0)"]
