"""A whole little evaluation beyond T0: every tier's rows, and that resuming does nothing again."""

import base64
import dataclasses
import json

import httpx
import numpy as np
import pytest

import codefend.lab.evaluate.outcomes
import codefend.lab.evaluate.query
import codefend.lab.evaluate.uploads
from codefend.lab.attacks.adaptive import surrogate_forward
from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.pixels import decode_png
from codefend.lab.baselines.compression import jpeg
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.baselines.filters import blur, gaussian_noise
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.evaluate.assess import Assessor
from codefend.lab.evaluate.checks import check_report
from codefend.lab.evaluate.command import CONTROL_NOISE
from codefend.lab.evaluate.conditions import served_prompt
from codefend.lab.evaluate.context import EvalContext, ObliviousSettings, Surrogate, TierSettings
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.pictures import draw_examples
from codefend.lab.evaluate.tables import check_notes, tier_notes, tier_tables
from codefend.lab.evaluate.tiers import oblivious_rows, tier_rows
from codefend.lab.evaluate.uploads import Uploader
from codefend.lab.service_client import ServiceClient
from codefend.models.codec import encode_image
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.pipeline import PurificationPipeline

OBLIVIOUS = ObliviousSettings(steps=2, epsilons=(16,), num_scenes_other=2, seeds=2)
TIERS = TierSettings(
    num_scenes={
        Tier.TRANSFER: 3,
        Tier.WHITE_BOX: 2,
        Tier.RESUBMISSION: 3,
        Tier.QUERY: 2,
    },
    num_scenes_diffpure=1,
    num_scenes_curve=1,
    num_scenes_families=2,
    steps=2,
    num_draws=2,
    num_draws_network=2,
    num_draws_curve=2,
    num_draws_transfer=2,
    num_focused=1,
    num_focused_still=1,
    curve_steps=(1, 2),
    num_repeats=3,
    num_queries=(60,),
    batch_size=2,
    batch_size_queried=1,
)
ALL = tuple(tier for tier in Tier if tier is not Tier.CLEAN)


class FakeService:
    """Names what it sees by its brightness; purifies by doing nothing."""

    def __init__(self, disclosure):
        self.disclosure, self.num_requests = disclosure, 0

    def __call__(self, request):
        self.num_requests += 1
        body = json.loads(request.content)
        pixels = decode_png(base64.b64decode(body["image"].partition(",")[2]))
        text = "cat" if pixels[:, :64].mean() > pixels[:, 64:].mean() else "a car at the top"
        answer = {
            "defense": {
                "purifier": {"name": "codefend", "version": "1"},
                "prompt_template": {"name": "plain", "version": "1"},
            },
            "purified_image": body["image"],
            "timings_ms": {"total": 1.0} if self.disclosure == "full" else None,
        }
        field = "answer" if request.url.path.endswith("vqa") else "caption"
        return httpx.Response(200, json={field: text, **answer})

    def client(self):
        transport = httpx.MockTransport(self)
        return ServiceClient(httpx.Client(transport=transport, base_url="http://service"))


@pytest.fixture(scope="module")
def build(victim, scenes):
    """An evaluation in a folder."""
    ours = purifying("purifier", PurificationPipeline.tiny(), "0" * 64)
    base = PurificationPipeline.tiny(seed=1)
    conditions = [
        Condition("none", NO_DEFENCE),
        Condition("codefend", ours, served_prompt),
        Condition("purifier", ours),
        Condition("diffpure", purifying("diffpure", base, "1" * 64, num_steps=2)),
        Condition("jpeg", jpeg(50)),
        Condition("blur", blur(1.0)),
        Condition("noise", gaussian_noise(0.03)),
    ]

    def make(out, **changes):
        fields = {
            "victim": victim,
            "attacker": victim,
            "scenes": scenes,
            "conditions": conditions,
            "oblivious": OBLIVIOUS,
            "tiers": TIERS,
            "surrogate": Surrogate("tiny", surrogate_forward(base, largest_noise_level=0.1)),
            "out": out,
        }
        return EvalContext(**{**fields, **changes})

    return make


@pytest.fixture(scope="module")
def finished(build, tmp_path_factory):
    out = tmp_path_factory.mktemp("tiers")
    services = [FakeService(disclosure) for disclosure in ("full", "minimal")]
    rows = tier_rows(build(out), ALL, [service.client() for service in services])
    return out, rows, services


def select(rows, **fields):
    return [
        row for row in rows if all(getattr(row, name) == value for name, value in fields.items())
    ]


def test_resume_does_nothing_again(build, finished, monkeypatch):
    out, rows, _ = finished

    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_uploads", forbidden)
    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_through", forbidden)
    monkeypatch.setattr(codefend.lab.evaluate.query, "attack_pixels", forbidden)
    monkeypatch.setattr(codefend.lab.evaluate.outcomes, "generate", forbidden)
    again = [FakeService(disclosure) for disclosure in ("full", "minimal")]
    assert tier_rows(build(out), ALL, [service.client() for service in again]) == rows
    # Each is asked once which defence it is; nothing else.
    assert [service.num_requests for service in again] == [1, 1]


@pytest.mark.slow
def test_interrupted_white_box_makes_only_what_is_missing(build, tmp_path, monkeypatch):
    uploader = Uploader(build(tmp_path))
    condition = uploader.context.conditions[1]
    first = uploader.white_box(condition, 4, "exact", "margin")
    removed = sorted(tmp_path.glob("attacked/t2-*/*/001.png"))
    assert len(removed) == 2  # two chunks of two
    removed[0].unlink()
    calls = []
    real = codefend.lab.evaluate.uploads.attack_through

    def counted(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_through", counted)
    for before, after in zip(
        first.images, uploader.white_box(condition, 4, "exact", "margin").images, strict=True
    ):
        np.testing.assert_array_equal(before, after)
    assert len(calls) == 1


def test_focus_attacks_what_is_left_standing(build, tmp_path, monkeypatch):
    uploader = Uploader(build(tmp_path))
    asked = []

    def recorded(config, victim, passage, images, truths, **options):
        asked.extend([[dialogue.prompt for dialogue in dialogues] for dialogues in truths])
        return [encode_image(image) for image in images]

    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_through", recorded)
    condition = uploader.context.conditions[5]
    scores = Assessor.of(uploader.context).clean(condition, 3)
    # The first question of scene 0 stands for one seed of two, both of scene 1, none of scene 2.
    right = np.array([[1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0]], dtype=float)
    uploads = uploader.focused(condition, dataclasses.replace(scores, right=right), "exact", 1)
    assert asked == [
        ["what is at the top?"],
        ["what is at the top?", "is there a car?"],
        ["describe the image."],
    ]
    assert uploads.threat.attack == "apgd-margin-left1"


def test_all_images_stay_in_the_ball(finished, scenes):
    out, _, _ = finished
    sources = [scene.image.astype(int) for scene in scenes]
    paths = [path for path in out.glob("attacked/*/*/*.png") if "-16" not in path.parts[-3]]
    assert len({path.parts[-3].split("-")[0] for path in paths}) >= 4  # t0's, t1, t2, t4
    for path in paths:
        pixels = decode_png(path.read_bytes()).astype(int)
        moved = min(np.abs(pixels - source).max() for source in sources)
        # Where no probe helps, MF-tt stays where it is.
        assert ("t4-mf-tt" not in path.parts[-3]) <= moved <= 8


def test_transfer_rows(finished):
    _, rows, _ = finished
    own = select(rows, tier="t1", metric="accuracy")
    assert {row.defence for row in own} >= {"none", "codefend", "diffpure", "noise"}
    assert {(r.attack, r.gradient, r.eot, r.steps) for r in own} == {
        ("apgd-margin", "transfer", 2, 2)
    }
    assert {row.n for row in own} == {6}


def test_white_box_rows(finished):
    _, rows, _ = finished
    own = select(rows, tier="t2", metric="accuracy")
    found = {(row.defence, row.gradient, row.eot) for row in own if row.attack == "apgd-margin"}
    assert found == {
        ("none", "exact", 1),
        *(
            (name, g, 2)
            for name in ("codefend", "purifier")
            for g in ("exact", "bpda", "surrogate")
        ),
        *(("diffpure", gradient, 2) for gradient in ("exact", "bpda", "surrogate")),
        ("jpeg", "bpda", 1),
        ("jpeg", "surrogate", 1),
        ("blur", "exact", 1),
        ("noise", "exact", 2),
    }
    assert {row.n for row in own if row.defence == "diffpure"} == {2}
    curve = [row for row in own if row.attack == "apgd-margin-curve"]
    assert [(row.defence, row.steps, row.n) for row in curve] == [
        ("codefend", 1, 2),
        ("codefend", 2, 2),
    ]
    noised = select(rows, tier="t2", attack="uniform_noise", metric="accuracy_lost")
    assert {row.defence for row in noised} == {"none", "codefend", "purifier"}


def test_union_is_below_every_attack(finished):
    _, rows, _ = finished
    for metric in ("accuracy", "cider"):
        for defence in ("codefend", "jpeg", "noise"):
            own = select(rows, tier="t2", defence=defence, metric=metric)
            (union,) = select(own, attack="worst-of-all")
            assert union.gradient == "union"
            others = [row.value for row in own if row.attack.startswith("apgd-margin")]
            assert len(others) >= 2  # its own, and a round at what was left
            if defence == "codefend":
                assert len(others) == 3 + 1 + 2  # gradients, rounds, points of the curve
            assert union.value <= min(row.value for row in own if "curve" not in row.attack)


def test_leads_are_paired_on_the_scenes_of_both(finished):
    _, rows, _ = finished
    (lead,) = select(
        rows,
        tier="t2",
        attack="worst-of-all",
        defence="codefend",
        metric="accuracy_lead:diffpure",
    )
    (theirs,) = select(
        rows, tier="t2", attack="worst-of-all", defence="diffpure", metric="accuracy"
    )
    assert lead.n == theirs.n == 2


def test_resubmission_rows(finished):
    _, rows, _ = finished
    own = select(rows, tier="t3", defence="codefend", task="vqa")
    attacks = {row.attack for row in own}
    assert attacks == {"none", "t0/apgd", "t0/apgd-margin", "t1/apgd-margin", "t2/apgd-margin"}
    for attack in ("none", "t0/apgd"):
        by_metric = {row.metric: row for row in select(own, attack=attack)}
        assert by_metric["accuracy_worst_of_3"].value <= by_metric["accuracy"].value
        assert {row.seeds for row in by_metric.values()} == {3}
        assert "accuracy_majority_of_3" in by_metric
    still = {
        row.metric: row.value for row in select(rows, tier="t3", defence="jpeg", attack="none")
    }
    assert still["accuracy_worst_of_3"] == still["accuracy"] == still["accuracy_majority_of_3"]


def test_query_rows(finished):
    _, rows, services = finished
    own = select(rows, tier="t4", metric="accuracy_lost")
    assert {(row.attack, row.steps, row.defence, row.held_out) for row in own} == {
        (f"{attack}-{disclosure}", 60, "codefend", True)
        for attack in ("square", "mf-tt")
        for disclosure in ("full", "minimal")
    }
    assert {row.n for row in own} == {4}
    # Per service: one greeting, two attacks on two images, then caption and two questions of
    # two images for clean and twice attacked, each two times; equal uploads are not asked again.
    scored = 3 * 2 * 3 * 2
    for service in services:
        assert service.num_requests <= 1 + 2 * 2 * 60 + scored
        assert service.num_requests > 2 * 2 * 50


def test_images_of_one_defence_serve_two_conditions(finished):
    """Purifier and codefend differ in the prompt alone, and the shipped one is the question."""
    out, _, _ = finished
    folders = list(out.glob("attacked/t2-apgd-margin-bpda-2/*"))
    # jpeg, diffpure (one chunk each), purifier and codefend together.
    assert len(folders) == 3


@pytest.mark.slow
def test_tiers_reuse_the_images_of_t0(build, tmp_path, monkeypatch):
    oblivious_rows(build(tmp_path, conditions=[Condition("none", NO_DEFENCE)]))

    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_uploads", forbidden)
    made = Uploader(build(tmp_path)).oblivious(2)
    assert [len(uploads.images) for uploads in made] == [2, 2]


@pytest.mark.slow
def test_clean_rows_come_where_t0_does_not(build, tmp_path):
    rows = tier_rows(build(tmp_path), [Tier.RESUBMISSION])
    clean = select(rows, tier="clean", metric="accuracy")
    assert {row.n for row in clean} == {6}
    assert {row.attack for row in select(rows, tier="t3")} == {"none", "t0/apgd", "t0/apgd-margin"}


def test_report_pieces(build, finished, tmp_path):
    _, rows, _ = finished
    tables = "\n".join(tier_tables(rows))
    for title in ("## T1", "## T2", "## T3", "## T4"):
        assert title in tables
    assert "| codefend | worst-of-all | union | 8/255 | 2 | 2 |" in tables
    checks = check_report(rows, ALL)
    # Two steps on noise-like scenes prove nothing, and the report says so.
    assert not all(check.passed for check in checks)
    assert "**FAILED**" in check_notes(checks)
    notes = tier_notes(build(tmp_path), ALL, num_services=0)
    assert "T4 was not run" in notes
    assert "T3: each upload is sent 3 times" in notes


def test_the_undefended_comes_first(build, tmp_path):
    with pytest.raises(ValueError, match="undefended"):
        build(tmp_path, conditions=[Condition("jpeg", jpeg(50))])
    for nothing in ({"num_scenes_curve": 0}, {"num_scenes": {Tier.QUERY: 0}}):
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            TIERS.replace(**nothing)


def test_same_text_is_marked_alike_behind_service_and_victim(finished, scenes):
    _, rows, _ = finished
    clean = select(rows, tier="t4", attack="none-full", metric="accuracy")
    assert len(clean) == 1
    seen = [decode_png(encode_image(scene.image)) for scene in scenes[:2]]
    told = [
        "cat" if pixels[:, :64].mean() > pixels[:, 64:].mean() else "a car at the top"
        for pixels in seen
    ]
    right = sum(
        text == question.answer
        for text, scene in zip(told, scenes, strict=False)
        for question in scene.questions
    )
    assert clean[0].value == right / 4
    (psnr,) = select(rows, tier="t4", attack="none-full", metric="psnr_db")
    assert psnr.value == 100.0


def test_examples_are_drawn_from_what_was_kept(build, finished, tmp_path, monkeypatch):
    out, _, _ = finished

    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_through", forbidden)
    draw_examples(build(out), ALL, tmp_path / "examples.png")
    height, width, _ = decode_png((tmp_path / "examples.png").read_bytes()).shape
    assert width > height  # two scenes, seven panels each
    draw_examples(build(out), [Tier.TRANSFER], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_control_is_as_noisy_as_what_ships():
    index = json.loads((WEIGHTS_DIRECTORY / "purifier" / "model_index.json").read_text())
    assert index["noise_level"] == CONTROL_NOISE
