import pickle
import sys

from codefend.service import errors
from codefend.service.errors import CodefendError, InvalidImage, Overloaded, UpstreamBusy


def tree(root=CodefendError):
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def test_every_leaf_has_its_own_code_and_a_public_message():
    leaves = {
        error
        for error in tree()
        if not error.__subclasses__() and error.__name__ != "InternalError"
    }
    codes = [error.code for error in leaves]
    assert len(set(codes)) == len(codes)
    for error in leaves:
        assert 400 <= error.status < 600
        assert set(error().body()["error"]) == {"message", "type", "param", "code"}
        if error.status >= 500:
            assert error().public_message == error.message


def test_the_tree_in_the_docstring_is_the_tree():
    for error in tree():
        if not error.__name__.startswith("_"):
            assert error.__name__ in errors.__doc__
            assert error.__name__ in sys.modules[error.__module__].__all__


def test_errors_survive_pickling():
    assert pickle.loads(pickle.dumps(InvalidImage("x", "image"))).param == "image"
    for error in (Overloaded, UpstreamBusy):
        assert error(retry_after_s=7).headers() == {"Retry-After": "7"}
