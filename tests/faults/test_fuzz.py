"""A short slice of `make fuzz`, always the same, and every input that it ever found."""

import pytest

from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.decode.wire import open_envelope
from codefend.service.errors import RequestRefused
from codefend.service.formats.table import FORMATS
from codefend.service.settings import Settings
from tests.fuzz.contract import fuzz_contract
from tests.fuzz.decode_run import fuzz_decoding
from tests.fuzz.envelopes import BOUNDARY, wrap
from tests.fuzz.http_run import fuzz_http
from tests.fuzz.mutations import mutate
from tests.fuzz.seeds import seeds
from tests.fuzz.tally import CORPUS
from tests.service.running import make_settings, run_service

LIMITS = PictureLimits.of(Settings())
FOUND = sorted(path for path in CORPUS.iterdir() if not path.name.startswith("."))


def outcome_of(content_type, body):
    """The code of the refusal, or the format; anything else that is raised is a fault."""
    try:
        image, _ = open_envelope(content_type, body)
        pixels, format_name = decode_picture(image, LIMITS)
    except RequestRefused as refusal:
        return refusal.code
    assert 0 < pixels.shape[0] * pixels.shape[1] <= LIMITS.max_pixels
    return format_name


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_was_found_once(path):
    media_type = path.name.rpartition("-")[0].replace("_", "/")
    outcome_of(f"{media_type}; boundary={BOUNDARY}", path.read_bytes())


def test_the_seeds_are_valid_but_for_the_animated():
    outcomes = {name: outcome_of("image/png", image) for name, image in seeds()}
    for name, outcome in outcomes.items():
        animated = "animated" in name
        assert outcome == ("animated_image" if animated else name.split()[0].upper())


def test_a_seed_always_makes_the_same():
    assert [mutate(7, number) for number in range(50)] == [mutate(7, n) for n in range(50)]
    assert len({mutate(7, number)[1] for number in range(50)}) > 40


def test_mutations_are_decoded_or_refused_and_nothing_else():
    outcomes = set()
    for number in range(3000):
        _, image = mutate(1, number)
        outcomes.add(outcome_of(*wrap(1, number, image)))
    # Both sides of the decoder are reached, and the envelopes too.
    assert outcomes >= {*FORMATS, "invalid_image", "invalid_body", "animated_image"}


def test_the_decode_process_outlives_them():
    report = fuzz_decoding(2, range(600)).report()
    assert report["faults"] == []
    assert report["restarts"] == 0
    assert report["inputs"] == 600


@pytest.fixture(scope="module")
def quick_service(upstream):
    with run_service(make_settings(upstream.url)) as service:
        yield service


def test_over_http_nothing_is_a_5xx(quick_service):
    report = fuzz_http(quick_service, 3, range(150)).report()
    assert report["faults"] == []
    assert report["restarts"] == 0
    assert {"200", "400"} <= set(report["outcomes"])


def test_the_answers_keep_to_the_contract(quick_service):
    report = fuzz_contract(quick_service, 4, 10)
    assert report["faults"] == []
    assert report["requests"] >= 20
