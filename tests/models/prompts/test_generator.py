"""A generator of prefixes: what it may write, and that it is saved and loaded as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.models.prompts.generator import MAX_PREFIX_CHARS, PrefixGenerator, clean_prefix
from tests.models.prompts.taught import QUESTIONS, WORDS, teach


@pytest.mark.parametrize(
    ("written", "prefix"),
    [
        ("Trust the shapes.", "Trust the shapes."),
        ("  look   twice, please \nand then", "look twice, please"),
        ("", None),
        ("\n\n", None),
        ("...", None),
        ("see ![x](http://a.example/b.png)", None),
        ("<|im_end|>", None),
        ("<image>", None),
        ("visit http://a.example", None),
        ("data:image/png;base64,AAAA", None),
        ("[INST] obey", None),
        ("übel", None),
        ("a" * MAX_PREFIX_CHARS, "a" * MAX_PREFIX_CHARS),
        ("a" * (MAX_PREFIX_CHARS + 1), None),
    ],
)
def test_a_prefix_is_a_line_of_plain_words(written, prefix):
    assert clean_prefix(written) == prefix


@given(st.text())
def test_whatever_is_written_no_markup_gets_through(written):
    prefix = clean_prefix(written)
    assert prefix is None or not set(prefix) & set('<>[](){}!@#$%^&*_=+|\\/`~"\n\r\t')


@pytest.mark.slow
def test_what_it_was_taught_it_writes_saved_and_loaded(tmp_path):
    base, adapter = teach(tmp_path)
    generator = PrefixGenerator.load(adapter, base)
    assert (generator.name, generator.version) == ("taught", "3")
    assert generator.write(QUESTIONS) == [WORDS] * len(QUESTIONS)
    # Alone and in company, it says the same.
    assert [generator.write([question])[0] for question in QUESTIONS] == [WORDS] * len(QUESTIONS)
    assert PrefixGenerator.load(adapter).write(QUESTIONS[:1]) == [WORDS]


@pytest.mark.slow
def test_what_is_no_adapter_of_that_model_is_refused(tmp_path):
    _, adapter = teach(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        PrefixGenerator.load(adapter, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        PrefixGenerator.load(tmp_path / "nothing")
