"""What the table of clients rests on: the model that they ask, and what is said of them."""

from pathlib import Path

import pytest

from tests.clients import play
from tests.clients.__main__ import CLIENTS, ENVIRONMENTS, SCRIPTS
from tests.clients.model import Model, says
from tests.clients.table import PAGE, Row, page
from tests.service.canary import SigningEngine, canary
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import encode

OWNER = 7
KEY = "key-of-the-model"
WORKS = {name: {} for name in play.SCENARIOS}


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(canary(OWNER, number)))
    return tuple(paths)


@pytest.fixture
def upstream():
    with run_upstream() as running:
        running.reply = Model(KEY, None, OWNER, [])
        yield running


@pytest.fixture
def case(upstream, files):
    return play.Case(upstream.url.removesuffix("/v1"), KEY, files, is_guarded=False)


def load(script, monkeypatch):
    monkeypatch.setitem(play.sys.modules, "play", play)
    return play.load(SCRIPTS / script).ROWS


@pytest.mark.slow
@pytest.mark.parametrize("script", ["openai-py.py", "anthropic.py"])
def test_the_model_speaks_as_the_clients_want(script, case, upstream, monkeypatch):
    """The two official ones are here anyway; `--alone` asks all."""
    for outcomes in play.play(load(script, monkeypatch), case).values():
        assert outcomes["scenarios"] == WORKS
    assert upstream.reply.verdict() == ()


class Wrong:
    def __init__(self, case):
        self.chat = self.images = self.tools = self.errors = lambda: None
        self.second_turns = "it has no memory"

    async def stream(self):
        raise ValueError("of the client")

    def refusals(self):
        yield "nothing", lambda: None
        yield "much", lambda: 1 / 0

    @staticmethod
    def sentence(error):
        return str(error)


def test_what_fails_is_told(files):
    said = play.play({"chat": Wrong}, play.Case("", "", files))["chat"]
    assert said["scenarios"]["second_turns"] == {"not": "it has no memory"}
    assert said["scenarios"]["stream"]["wrong"].endswith("ValueError: of the client")
    assert said["refused"] == {
        "nothing": {"wrong": "it was not refused"},
        "much": {"sentence": "division by zero"},
    }
    row = Row("A", "1", "chat", said["scenarios"], said["refused"])
    assert set(row.faults()) == {"stream", "nothing"}


def body(pixels):
    import base64

    data = base64.b64encode(encode(pixels)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    return data, {"model": "m", "messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize("stranger", [False, True])
@pytest.mark.parametrize("purified", [False, True])
def test_the_model_tells_originals_and_strangers(upstream, purified, stranger):
    import httpx

    pixels = canary(OWNER + stranger, 0)
    original, _ = body(pixels)
    if purified:
        (pixels,) = SigningEngine("k").purify(pixels[None])
    upstream.reply = model = Model(KEY, "k", OWNER, [original])
    headers = {"authorization": f"Bearer {KEY}"}
    url = f"{upstream.url}/chat/completions"
    answer = httpx.post(url, json=body(pixels)[1], headers=headers).json()
    assert answer["choices"][0]["message"]["content"] == says(pictures=1)
    complaints = [] if purified else ["an original arrived", "a picture was not purified"]
    assert model.verdict() == (*complaints, *["a picture of another client"] * stranger)


def test_a_model_that_saw_no_picture_says_so():
    assert Model(KEY, "k", OWNER, []).verdict() == ("no picture arrived",)


def test_the_page_says_what_works_and_what_is_refused():
    wrong = WORKS | {"tools": {"wrong": "x"}, "stream": {"not": "it streams nothing"}}
    refused = {"a file": {"sentence": "Send no file."}}
    rows = [Row("A", "1.0", "chat", wrong, refused), Row("B", "2.0", "messages", WORKS, refused)]
    text = page(rows, {"A": "`A(url)`"})
    assert "| A | 1.0 | chat | yes | – | yes | **no** | yes | yes |\n" in text
    assert "- A, chat, stream: it streams nothing\n" in text
    assert "- A: `A(url)`\n" in text
    assert "- a file (chat, messages):\n  “Send no file.”\n" in text


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_every_client_has_its_script_and_its_lock(client):
    for environment in client.environments():
        assert client.package in {name for e in client.environments() for name in e.versions()}
        assert "http" not in "".join(
            line for line in environment.lock.read_text().splitlines() if "resolved" in line
        )
    for script in client.scripts:
        assert len([*SCRIPTS.glob(f"{script}.*")]) == 1


def test_nothing_is_left_over():
    scripts = {path.stem for path in SCRIPTS.iterdir() if path.is_file()}
    assert scripts <= {name for client in CLIENTS.values() for name in client.scripts}
    locks = {path.stem for path in (Path(__file__).parent / "locks").iterdir()}
    assert locks == set(ENVIRONMENTS)


def test_the_page_is_of_these_clients_and_versions():
    text = PAGE.read_text()
    for client in CLIENTS.values():
        assert f"| {client.title} | {client.version()} | " in text, "run `make test-clients`"
    assert "**no**" not in text
