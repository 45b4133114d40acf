import pytest

from codefend.lab.errors import no_weights
from codefend.models.manifest import LABORATORY_WEIGHTS, WEIGHTS_DIRECTORY


@pytest.mark.parametrize("name", sorted(LABORATORY_WEIGHTS))
def test_what_a_wheel_leaves_out_comes_with_a_checkout(name):
    said = str(no_weights(WEIGHTS_DIRECTORY / name, "no base", "make it"))
    assert "install from a checkout" in said
    assert "make it" not in said


def test_other_weights_are_to_be_made(tmp_path):
    path = tmp_path / "base"
    assert str(no_weights(path, "no base", "make it")) == f"{path} holds no base; make it"
