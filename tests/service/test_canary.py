"""Whatever the shape of a conversation, the model sees its own images, and purified ones only.

The upstream checks every image it gets: that this run's purifier signed it, that nobody has seen
the same signature before, and that it is the very image that its owner sent at this place.
"""

import base64
import itertools
import json
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from codefend.service.policy import Mode
from tests.service.canary import IMPORT_PATH, canary, read_canary, read_signature
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import encode, pixels_of
from tests.service.running import make_settings, run_service

pytestmark = pytest.mark.slow

PATH = "/v1/chat/completions"
FORMATS = ("PNG", "JPEG", "WEBP")
SIZES = ((40, 64), (72, 96), (130, 200))
OWNERS = itertools.count(1)


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
        owner = int(next(owner_marks(document)).removeprefix("owner-"))
        images = list(images_in(document))
        for number, url in enumerate(images):
            self._look_at(url, owner, number)
        self.num_images += len(images)
        if json.dumps(document).count("base64,") != len(images):
            self.complaints.append("an image where none belongs")
        answer(handler, document)

    def _look_at(self, url, owner, number):
        pixels = pixels_of(base64.b64decode(url.partition(",")[2]))
        nonce = read_signature(pixels, self.key)
        if nonce is None:
            self.complaints.append("not purified")
        elif nonce in self._nonces:
            self.complaints.append("purified for another job")
        self._nonces.add(nonce)
        if read_canary(pixels) != (owner, number):
            self.complaints.append(f"{read_canary(pixels)} in the place of {(owner, number)}")


def owner_marks(document):
    """Texts in which an owner says who they are."""
    for message in document["messages"]:
        content = message.get("content") or []
        texts = [content] if isinstance(content, str) else [p.get("text", "") for p in content]
        yield from (text for text in texts if text.startswith("owner-"))


def images_in(document):
    for message in document["messages"]:
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else []:
            if part["type"] == "image_url":
                value = part["image_url"]
                yield value if isinstance(value, str) else value["url"]


def answer(handler, document):
    choice = {"index": 0, "finish_reason": "stop"}
    if document.get("stream"):
        chunk = {"choices": [choice | {"delta": {"content": "seen"}}]}
        content = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
        handler.send(content, "text/event-stream")
        return
    message = {"role": "assistant", "content": "seen"}
    handler.send(json.dumps({"choices": [choice | {"message": message}]}).encode(), "text/json")


class Owner:
    """Someone with images of their own, each of another format and size."""

    def __init__(self):
        self.id = next(OWNERS)
        self.num_images = 0

    def url(self):
        number, self.num_images = self.num_images, self.num_images + 1
        kind = self.id + number
        image_format = FORMATS[kind % len(FORMATS)]
        pixels = canary(self.id, number, *SIZES[kind // 3 % len(SIZES)])
        encoded = base64.b64encode(encode(pixels, image_format)).decode()
        return f"data:image/{image_format.lower()};base64,{encoded}"

    def image(self, **more):
        return {"type": "image_url", "image_url": {"url": self.url()} | more}

    def text(self):
        return {"type": "text", "text": f"owner-{self.id}"}


def says(role, *content, **fields):
    return {"role": role, "content": list(content), **fields}


CALL = {"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}

SHAPES = {
    "one image": lambda o: [says("user", o.text(), o.image())],
    "the image first": lambda o: [says("user", o.image(), o.text())],
    "images and texts in turns": lambda o: [
        says("user", o.text(), o.image(), o.text(), o.image(), o.image(detail="high"))
    ],
    "a plain string": lambda o: [
        says("user", o.text(), {"type": "image_url", "image_url": o.url()})
    ],
    "bare base64": lambda o: [
        says("user", o.text(), {"type": "image_url", "image_url": o.url().partition(",")[2]})
    ],
    "a system's image": lambda o: [says("system", o.image()), says("user", o.text(), o.image())],
    "a developer's image": lambda o: [says("developer", o.image()), says("user", o.text())],
    "a tool's image": lambda o: [
        says("user", o.text(), o.image()),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        says("tool", o.image(), o.image(), tool_call_id="t"),
    ],
    "an assistant's image": lambda o: [says("assistant", o.image()), says("user", o.text())],
    "a long history": lambda o: [
        message
        for _ in range(4)
        for message in (
            says("user", o.text(), o.image()),
            {"role": "assistant", "content": "seen"},
            {"role": "user", "content": "and now?"},
            {"role": "assistant", "content": "", "refusal": None},
        )
    ],
    "a body that a decode process reads": lambda o: [
        {"role": "user", "content": "word " * 10_000},
        says("user", o.text(), *(o.image() for _ in range(6))),
    ],
    "no image": lambda o: [{"role": "user", "content": f"owner-{o.id}"}],
}


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


def play(service, shape, *, stream=False):
    """Plays one conversation; returns its owner and the status."""
    owner = Owner()
    body = {"model": "m", "messages": SHAPES[shape](owner), "stream": stream}
    response = service.client.post(PATH, json=body)
    return owner, response


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_image_is_purified_and_stays_in_its_place(canary_service, witness, shape, stream):
    owner, response = play(canary_service, shape, stream=stream)
    assert response.status_code == 200
    assert "seen" in response.text
    assert witness.complaints == []
    assert witness.num_images == owner.num_images


def test_many_conversations_at_once_do_not_mix(canary_service, witness):
    plays = [(shape, stream) for shape in SHAPES for stream in (False, True)] * 3
    with ThreadPoolExecutor(12) as threads:
        futures = [
            threads.submit(play, canary_service, shape, stream=stream) for shape, stream in plays
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


def elsewhere(url):
    return {"type": "image_url", "image_url": {"url": url}}


REFUSED = {
    "a video": lambda o: {"type": "video_url", "video_url": {"url": o.url()}},
    "a file": lambda o: {"type": "file", "file": {"file_data": o.url()}},
    "audio": lambda o: {"type": "input_audio", "input_audio": {"data": o.url()}},
    "embeddings": lambda o: {"type": "image_embeds", "image_embeds": o.url()},
    "another API's image": lambda o: {"type": "image", "source": {"data": o.url()}},
    "the Responses API's image": lambda o: {"type": "input_image", "image_url": o.url()},
    "no type": lambda o: {"image_url": {"url": o.url()}},
    "an image in a text part": lambda o: o.text() | {"image_url": {"url": o.url()}},
    "an image by its cache id": lambda o: o.image() | {"uuid": "another-callers"},
    "a list in a list": lambda o: [o.image()],
    "a remote URL": lambda _: elsewhere("https://example.org/cat.png"),
    "a loopback URL": lambda _: elsewhere("http://127.0.0.1:1/cat.png"),
    "a metadata URL": lambda _: elsewhere("http://169.254.169.254/latest"),
    "a URL that parsers read differently": lambda _: elsewhere("http://a.b\\@127.0.0.1/"),
    "a file URL": lambda _: elsewhere("file:///etc/passwd"),
    "a URL without a scheme": lambda _: elsewhere("//example.org/cat.png"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("role", ["user", "tool"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_purified_is_refused_and_not_passed(
    canary_service, witness, kind, role, stream
):
    owner = Owner()
    messages = [says("user", owner.text(), owner.image()), says(role, REFUSED[kind](owner))]
    body = {"model": "m", "messages": messages, "stream": stream}
    response = canary_service.client.post(PATH, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("messages[1].content[0]")
    assert witness.num_requests == 0


def test_the_witness_tells_originals_and_strangers(canary_service, witness, key):
    with canary_service.changed(mode=Mode.SHADOW):
        assert play(canary_service, "one image")[1].status_code == 200
    assert witness.complaints == ["not purified"]
    witness.complaints.clear()
    stolen = Owner()
    stolen.id, stolen.text = next(OWNERS), lambda: {"type": "text", "text": "owner-1"}
    body = {"model": "m", "messages": SHAPES["one image"](stolen)}
    assert canary_service.client.post(PATH, json=body).status_code == 200
    assert witness.complaints == [f"{(stolen.id, 0)} in the place of (1, 0)"]
