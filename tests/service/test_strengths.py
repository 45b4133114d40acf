"""How strongly images are purified: by setting, by key, and what is forwarded, kept and told."""

import numpy as np
import pytest

from codefend.models.purifier.strengths import STRENGTHS, Strength
from codefend.service.offline import ImagePurifier
from codefend.service.settings import Settings
from tests.service.fake_engine import MARKS, FakeEngine
from tests.service.pictures import encode, picture, pixels_of
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form, as_json, from_data_url

UPLOAD = encode(picture())
FILE = "\n".join(f'[[keys]]\nname = "{s}"\nkey = "{s}"\nstrength = "{s}"' for s in Strength)


def purified(strength):
    """What the fake engine gives."""
    pixels = 255 - picture()
    if strength in MARKS:
        pixels[0, :, 2] = MARKS[strength]
    return pixels


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(FILE)
    with run_service(make_settings(api_keys_file=file, cache_bytes=1 << 20)) as running:
        yield running


def purify(keyed, strength, **fields):
    headers = {"authorization": f"Bearer {strength}"}
    answer = keyed.client.post("/v1/purify", **as_json(UPLOAD, **fields), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.slow
@pytest.mark.parametrize("strength", list(Strength))
def test_each_key_is_purified_at_its_own_and_told_so(keyed, strength):
    answer = purify(keyed, strength)
    levels, defense = STRENGTHS[strength].levels(0.1, 1), answer["defense"]
    assert [defense[name] for name in ("strength", "steps", "noise_level", "cached")] == [
        strength,
        len(levels),
        levels[0],
        False,
    ]
    _, file = from_data_url(answer["purified_image"])
    assert np.array_equal(pixels_of(file), purified(strength))
    again = purify(keyed, strength)
    assert again["defense"]["cached"]
    assert again["purified_image"] == answer["purified_image"]


@pytest.mark.slow
def test_a_purifier_without_the_keys_strength_is_refused_with_what_to_do(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text(FILE)
    settings = make_settings(api_keys_file=file, purifier='{"strengths": ["standard"]}')
    with run_service(settings) as running:
        for strength, status in ((Strength.STRONG, 503), (Strength.STANDARD, 200)):
            headers = {"authorization": f"Bearer {strength}"}
            answer = running.client.post("/v1/purify", **as_form(UPLOAD), headers=headers)
            assert answer.status_code == status
            if status == 503:
                assert answer.json()["error"]["code"] == "strength_unavailable"
                assert "strength = standard" in answer.json()["error"]["message"]


@pytest.mark.parametrize("strength", list(Strength))
def test_in_python_it_is_the_same(strength):
    settings = Settings()
    limits = {"tiling": settings.tiling, "max_batch_pixels": settings.max_batch_pixels}
    found = ImagePurifier(FakeEngine(), **limits, strength=strength)(picture())
    assert np.array_equal(found, purified(strength))


def test_in_python_a_strength_that_is_not_there_is_refused():
    settings = Settings()
    engine = FakeEngine(strengths=["standard"])
    with pytest.raises(ValueError, match="set standard"):
        ImagePurifier(
            engine, tiling=settings.tiling, max_batch_pixels=1 << 20, strength=Strength.STRONG
        )
