"""Query attacks against a fake service: the score falls, bound and budget are kept."""

import base64
import json

import httpx
import numpy as np
import pytest
import torch

from codefend.lab.attacks.pixels import decode_png
from codefend.lab.attacks.query import (
    BudgetSpent,
    RandomGradientFree,
    ServiceOracle,
    SquareAttack,
    TextTruth,
    answer_wrongness,
    caption_wrongness,
    square_side,
)
from codefend.lab.errors import LabError
from codefend.lab.service_client import ServiceClient
from codefend.models.codec import encode_image
from codefend.models.quantise import dequantise

EPSILON = 8 / 255
TRUTH = TextTruth(("a dark cat on a grey wall",), (("which half is brighter?", "left"),))
WORDS = TRUTH.captions[0].split()


class FakeService:
    """Answers by the brightness of halves and patches, with noise, and remembers what it saw."""

    def __init__(self, disclose="full"):
        self.uploads, self.headers, self.disclose = [], [], disclose
        self.rng = np.random.default_rng(0)

    def __call__(self, request):
        body = json.loads(request.content)
        kind, data = body["image"].split(",", 1)
        assert kind == "data:image/png;base64"
        pixels = decode_png(base64.b64decode(data)).astype(float)
        self.uploads.append(pixels)
        self.headers.append(request.headers)
        text = self.answer(pixels) if request.url.path == "/v1/vqa" else self.caption(pixels)
        field = "answer" if request.url.path == "/v1/vqa" else "caption"
        full = self.disclose == "full"
        defence = {
            "purifier": {"name": "codefend", "version": "2"},
            "prompt_template": {"name": "plain", "version": "1"},
        }
        return httpx.Response(
            200,
            json={
                field: text,
                "defense": defence,
                "purified_image": body["image"],
                "timings_ms": {"total": 1.0} if full else None,
            },
        )

    def answer(self, pixels):
        middle = pixels.shape[1] // 2
        lead = pixels[:, :middle].mean() - pixels[:, middle:].mean()
        return "left" if lead + self.rng.normal(0, 0.1) > 0 else "right"

    def caption(self, pixels):
        """A word is lost wherever its stripe of the image has become brighter than it was."""
        rows = np.array_split(pixels.mean(axis=(1, 2)), len(WORDS))
        kept = [w for w, row in zip(WORDS, rows, strict=True) if row.mean() <= 101.0]
        return " ".join(kept)


def client(service):
    transport = httpx.MockTransport(service)
    return ServiceClient(httpx.Client(transport=transport, base_url="http://service"))


@pytest.fixture
def images():
    """Two grey images, the left half brighter by two levels."""
    pixels = np.full((2, 24, 24, 3), 100, dtype=np.uint8)
    pixels[:, :, :12] += 2
    return dequantise(torch.from_numpy(pixels))


ATTACKS = [
    lambda looks: SquareAttack(epsilon=EPSILON, num_looks=looks),
    lambda looks: RandomGradientFree(epsilon=EPSILON, num_looks=looks),
]


@pytest.mark.parametrize("build", ATTACKS, ids=["square", "mf-tt"])
def test_score_falls_within_ball_and_budget(build, images):
    service = FakeService()
    oracle = ServiceOracle(client(service), [TRUTH] * 2, budget=241)
    before = ServiceOracle(client(FakeService()), [TRUTH] * 2, budget=2)(images)
    attack = build(oracle.num_looks)
    adversarial = attack(images, oracle, generator=torch.Generator().manual_seed(0))
    after = ServiceOracle(client(FakeService()), [TRUTH] * 2, budget=2)(adversarial)
    assert (after >= before + 0.5).all()
    assert (adversarial - images).abs().max() <= EPSILON + 1e-6
    clean = (images.permute(0, 2, 3, 1) * 255).round().numpy()
    # Whatever was ever uploaded was within the ball of one of the two equal images.
    assert max(np.abs(pixels - clean[0]).max() for pixels in service.uploads) <= 8
    assert all(200 <= spent <= 241 for spent in oracle.spent)
    assert len(service.uploads) == sum(oracle.spent)


@pytest.mark.parametrize("build", ATTACKS, ids=["square", "mf-tt"])
def test_looks_exactly_as_often_as_allowed(build, images):
    looks = []

    def counted(candidates):
        looks.append(1)
        return candidates.flatten(1).mean(dim=1)

    adversarial = build(97)(images, counted, generator=torch.Generator().manual_seed(0))
    assert 97 - 8 < len(looks) <= 97
    assert (adversarial.mean(dim=(1, 2, 3)) > images.mean(dim=(1, 2, 3))).all()


@pytest.mark.parametrize("build", ATTACKS, ids=["square", "mf-tt"])
def test_returns_the_best_look(build, images):
    seen = []

    def recorded(candidates):
        losses = torch.sin(40 * candidates).flatten(1).mean(dim=1)
        seen.append(losses)
        return losses

    best = build(60)(images, recorded, generator=torch.Generator().manual_seed(0))
    expected = torch.stack(seen).amax(dim=0)
    torch.testing.assert_close(torch.sin(40 * best).flatten(1).mean(dim=1), expected)


def test_query_attacks_never_ask_for_gradients(images):
    def objective(candidates):
        assert not candidates.requires_grad
        return candidates.flatten(1).mean(dim=1)

    for build in ATTACKS:
        build(20)(images, objective, generator=torch.Generator().manual_seed(0))


def test_budget_is_refused_before_anything_is_sent(images):
    service = FakeService()
    oracle = ServiceOracle(client(service), [TRUTH] * 2, budget=5)
    assert oracle.num_looks == 2
    oracle(images)
    oracle(images)
    assert len(service.uploads) == 8
    with pytest.raises(BudgetSpent, match="1 queries left"):
        oracle(images)
    assert len(service.uploads) == 8


def test_loss_counts_wrong_answers_and_lost_words(images):
    truths = [
        TRUTH,
        TextTruth((), (("which half is brighter?", "right"), ("and now?", "left"))),
    ]
    losses = ServiceOracle(client(FakeService()), truths, budget=3)(images)
    assert losses[0] == pytest.approx(0.0)
    assert losses[1] == pytest.approx(0.5)


def test_squares_shrink_as_the_paper_says():
    sides = [square_side(look, 10_000, 100, 0.8) for look in (0, 11, 51, 201, 1001, 8001)]
    assert sides == [round(100 * (0.8 / 2**halved) ** 0.5) for halved in (0, 1, 2, 3, 4, 8)]
    # A tenth of the budget shrinks them ten times as fast.
    assert square_side(21, 1000, 100, 0.8) == square_side(210, 10_000, 100, 0.8)
    assert square_side(999, 1000, 8, 0.05) == 1


def test_square_starts_from_stripes_at_the_corners_of_the_ball(images):
    first = []

    def objective(candidates):
        first.append(candidates)
        return torch.zeros(len(candidates))

    SquareAttack(epsilon=EPSILON, num_looks=1)(images, objective)
    moved = first[0] - images
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, EPSILON))
    assert torch.equal(moved[:, :, 0].sign(), moved[:, :, 5].sign())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SquareAttack(epsilon=-1, num_looks=5),
        lambda: SquareAttack(epsilon=0.1, num_looks=0),
        lambda: SquareAttack(epsilon=0.1, num_looks=5, first_share=0.0),
        lambda: RandomGradientFree(epsilon=0.1, num_looks=16),
        lambda: TextTruth((), ()),
    ],
)
def test_refuses_meaningless_parameters(wrong):
    with pytest.raises(ValueError, match=r"must|needs"):
        wrong()


def test_wrongness():
    assert answer_wrongness("A cat.", "cat") == 0.0
    assert answer_wrongness("dog", "cat") == 1.0
    assert caption_wrongness("a cat on the wall", ["the cat on a wall", "a dog"]) == 0.0
    # One of three words replaced: F1 is 2/3 and one edit in three.
    assert caption_wrongness("red cat sits", ["red dog sits"]) == pytest.approx(1 / 3)
    # The same words in another order: only the edits tell.
    assert caption_wrongness("cat left dog", ["dog left cat"]) == pytest.approx(0.5 * 2 / 3)
    assert caption_wrongness("", ["cat"]) == 1.0
    assert caption_wrongness("", [""]) == 0.0


@pytest.fixture
def png():
    return encode_image(np.zeros((8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("disclose", ["full", "minimal"])
def test_reply_says_what_was_shown(disclose, png):
    reply = client(FakeService(disclose)).ask(png, None, max_tokens=9)
    assert reply.disclosure == disclose
    assert reply.defence == "codefend 2 plain 1"
    assert reply.text == TRUTH.captions[0]
    assert reply.purified.startswith("data:image/png;base64,")


def test_key_is_sent():
    connected = ServiceClient.connect("http://service", key="secret")
    assert connected.http.headers["authorization"] == "Bearer secret"
    assert "authorization" not in ServiceClient.connect("http://service").http.headers


def test_full_house_is_waited_out(png):
    naps = []
    service = FakeService()

    def busy(request):
        if len(naps) < 2:
            return httpx.Response(429, headers={"retry-after": "3"})
        return service(request)

    http = httpx.Client(transport=httpx.MockTransport(busy), base_url="http://service")
    assert ServiceClient(http, naps.append).ask(png, "what?", max_tokens=4).text
    assert naps == [3.0, 3.0]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(401, text="no key"), "answered 401: no key"),
        (httpx.Response(503, headers={"retry-after": "x"}), "answered 503"),
        (httpx.Response(200, json={"answer": "cat"}), "no CoDefend service"),
    ],
)
def test_what_is_no_answer_is_said(response, message, png):
    http = httpx.Client(
        transport=httpx.MockTransport(lambda request: response), base_url="http://service"
    )
    with pytest.raises(LabError, match=message):
        ServiceClient(http, lambda seconds: None).ask(png, "what?", max_tokens=4)


def test_no_service_is_said(png):
    def refuse(request):
        raise httpx.ConnectError("refused", request=request)

    http = httpx.Client(transport=httpx.MockTransport(refuse), base_url="http://service")
    with pytest.raises(LabError, match="no answer from http://service"):
        ServiceClient(http).ask(png, "what?", max_tokens=4)
