import pytest

from codefend.service.decode.process import report_refusal
from codefend.service.decode.stage import refusal_from_report
from codefend.service.errors import ImageTooLarge, InvalidImage, TooManyImages


@pytest.mark.parametrize("kind", [ImageTooLarge, TooManyImages])
def test_a_refusal_arrives_as_it_was(kind):
    rebuilt = refusal_from_report(report_refusal(kind("because", "image")))
    assert type(rebuilt) is kind
    assert (rebuilt.public_message, rebuilt.param) == ("because", "image")


def test_a_child_process_cannot_invent_errors():
    report = {"refused": "internal_error", "message": "secret", "param": None}
    rebuilt = refusal_from_report(report)
    assert isinstance(rebuilt, InvalidImage)
    assert rebuilt.public_message == InvalidImage.message


def test_an_answer_is_no_refusal():
    assert refusal_from_report({"height": 1}) is None
