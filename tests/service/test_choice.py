import pytest

from codefend.service.errors import PurificationFailed
from codefend.service.policy import Mode, OnPurifyFailure
from codefend.service.processes.pixels import Picture
from codefend.service.shield import choose_picture

ENFORCE, SHADOW = Mode.ENFORCE, Mode.SHADOW
REFUSE, PASS = OnPurifyFailure.REFUSE, OnPurifyFailure.PASS


@pytest.mark.parametrize(
    ("mode", "policy", "was_purified", "picture", "reason"),
    [
        (ENFORCE, REFUSE, True, Picture.PURIFIED, None),
        (ENFORCE, PASS, True, Picture.PURIFIED, None),
        (ENFORCE, PASS, False, Picture.DECODED, "purify_failure"),
        (SHADOW, REFUSE, True, Picture.DECODED, "shadow"),
        (SHADOW, REFUSE, False, Picture.DECODED, "shadow"),
        (SHADOW, PASS, False, Picture.DECODED, "shadow"),
    ],
)
def test_choices(mode, policy, was_purified, picture, reason):
    assert choose_picture(mode, policy, was_purified=was_purified) == (picture, reason)


def test_closed_by_default():
    with pytest.raises(PurificationFailed):
        choose_picture(ENFORCE, REFUSE, was_purified=False)
