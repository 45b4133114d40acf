"""How strongly images are purified: by setting, by key, and what is forwarded, kept and told."""

import numpy as np
import pytest
from pydantic import ValidationError

from codefend.models.codec import ImageFormat, encode_image, through_jpeg
from codefend.models.purifier.strengths import STRENGTHS, Strength
from codefend.service.encode.stage import make_encoder
from codefend.service.offline import ImagePurifier
from codefend.service.processes.pixels import Picture, PixelStore
from codefend.service.settings import Settings
from tests.service.fake_engine import MARKS, FakeEngine
from tests.service.pictures import encode, picture, pixels_of
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form, as_json, from_data_url

UPLOAD = encode(picture())
OWN_JPEG = [each for each in Strength if STRENGTHS[each].jpeg_quality is not None]
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
    row, defense = STRENGTHS[strength], answer["defense"]
    levels = row.levels(0.1, 1)
    assert [defense[name] for name in ("strength", "steps", "noise_level", "cached")] == [
        strength,
        len(levels),
        levels[0],
        False,
    ]
    pixels, quality = purified(strength), row.jpeg_quality
    media_type, file = from_data_url(answer["purified_image"])
    if quality is None:
        assert np.array_equal(pixels_of(file), pixels)
    else:
        assert media_type.startswith("data:image/jpeg")
        assert file == encode_image(pixels, ImageFormat.JPEG, quality)
    again = purify(keyed, strength)
    assert again["defense"]["cached"]
    assert again["purified_image"] == answer["purified_image"]


@pytest.mark.slow
@pytest.mark.parametrize("strength", OWN_JPEG)
def test_whatever_file_is_asked_for_has_the_pixels_of_the_jpeg(keyed, strength):
    answer = purify(keyed, strength, output_format="png")
    _, file = from_data_url(answer["purified_image"])
    expected = through_jpeg(purified(strength), STRENGTHS[strength].jpeg_quality)
    assert np.array_equal(pixels_of(file), expected)


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_an_encoder_puts_the_defences_jpeg_first(tmp_path, image_format):
    pixels = picture()
    store = PixelStore(tmp_path)
    lease = store.lease(pixels.size // 3)
    lease.write(Picture.PURIFIED, pixels)
    write, _ = make_encoder(95)
    height, width, _ = pixels.shape
    meta = {"pixels": lease.name, "picture": 1, "height": height, "width": width, "in_url": False}
    written = write(meta | {"format": image_format, "quality": 60}, b"", None)[1]
    assert np.array_equal(pixels_of(written), through_jpeg(pixels, 60))


@pytest.mark.parametrize("strength", OWN_JPEG)
@pytest.mark.parametrize("given", [{"forward_format": "png"}, {"jpeg_quality": 90}])
def test_a_second_codec_beside_the_defences_own_is_refused(strength, given):
    with pytest.raises(ValidationError, match=r"leave CODEFEND_FORWARD_FORMAT and .* out"):
        Settings(strength=strength, **given)
    assert Settings(strength=strength).format_at(strength) is ImageFormat.JPEG
    assert Settings(forward_format="webp").format_at(Strength.STANDARD) is ImageFormat.WEBP


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
def test_in_python_the_codec_is_a_part_of_it(strength):
    settings = Settings()
    limits = {"tiling": settings.tiling, "max_batch_pixels": settings.max_batch_pixels}
    found = ImagePurifier(FakeEngine(), **limits, strength=strength)(picture())
    pixels, quality = purified(strength), STRENGTHS[strength].jpeg_quality
    assert np.array_equal(found, pixels if quality is None else through_jpeg(pixels, quality))


def test_in_python_a_strength_that_is_not_there_is_refused():
    settings = Settings()
    engine = FakeEngine(strengths=["standard"])
    with pytest.raises(ValueError, match="set standard"):
        ImagePurifier(
            engine, tiling=settings.tiling, max_batch_pixels=1 << 20, strength=Strength.STRONG
        )
