"""Images in text: base64 as browsers forgive it, and nothing else."""

import base64
import time

import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.service.decode.wire import read_inline_image
from codefend.service.errors import InvalidField, InvalidImage, RemoteImage

# All sixty-four digits, so that both alphabets differ from each other.
IMAGE = bytes(range(256)) + b"\xfb\xff\xbf"
TEXT = base64.b64encode(IMAGE + b"!").decode()
PADDED = base64.b64encode(IMAGE + b"!").decode()
WHOLE = IMAGE + b"!"
ESCAPED = PADDED.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
SPELLINGS = {
    "bare": PADDED,
    "data URL": f"data:image/png;base64,{PADDED}",
    "no type": f"data:;base64,{PADDED}",
    "capitals": f"DATA:Image/PNG;BASE64,{PADDED}",
    "parameters": f"data:image/jpeg;charset=utf-8;base64,{PADDED}",
    "a space in the header": f"data:image/png; base64 ,{PADDED}",
    "space before": f" \r\n\tdata:image/png;base64,{PADDED}",
    "space behind": f"data:image/png;base64,{PADDED}\n",
    "a space behind the comma": f"data:image/jpeg;base64, {PADDED}",
    "lines": f"data:image/jpeg;base64,{base64.encodebytes(WHOLE).decode()}",
    "lines of Windows": base64.encodebytes(WHOLE).decode().replace("\n", "\r\n"),
    "form feeds": PADDED.replace("A", "\fA"),
    "no padding": f"data:image/jpeg;base64,{PADDED.rstrip('=')}",
    "URL-safe": base64.urlsafe_b64encode(WHOLE).decode(),
    "URL-safe, no padding": base64.urlsafe_b64encode(WHOLE).decode().rstrip("="),
    "escaped": f"data:image/png;base64,{ESCAPED}",
    "all escaped": "data:image/png;base64," + "".join(f"%{ord(c):02x}" for c in PADDED),
    "escaped line breaks": "data:image/png;base64,%0D%0A" + PADDED,
}
REFUSED = {
    "both alphabets": "+A-A",
    "garbage": TEXT[:40] + "!" + TEXT[40:],
    "a nul": TEXT[:40] + "\0" + TEXT[40:],
    "another space": TEXT[:40] + "\u00a0" + TEXT[40:],
    "padding inside": "AA==AAAA",
    "too much padding": "AAA==",
    "padding alone": "====",
    "one digit too many": "AAAAA",
    "escaped garbage": "data:image/png;base64,%21%21%21%21",
    "half an escape": "data:image/png;base64,AAA%",
    "no escape": "data:image/png;base64,%zzAA",
    "an escape outside a URL": "AAA%2B",
    "no base64": "data:image/png,AAAA",
    "base64 elsewhere": "data:image/png;base64;x=1,AAAA",
    "not base64": "data:image/png;notbase64,AAAA",
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_what_is_plainly_meant_is_read(text):
    assert read_inline_image(text, "image") == WHOLE


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_is_not_is_refused(text):
    with pytest.raises(InvalidField, match="data: URL"):
        read_inline_image(text, "image")


@pytest.mark.parametrize("text", ["", "  ", "data:image/png;base64,", "data:;base64,%20 \n"])
def test_an_empty_image_is_said_to_be_empty(text):
    with pytest.raises(InvalidImage, match="empty"):
        read_inline_image(text, "image")


@pytest.mark.parametrize("text", ["http://a.example/b", " https:x", "//a.example/b", "file:///a"])
def test_urls_to_elsewhere_are_refused(text):
    with pytest.raises(RemoteImage):
        read_inline_image(text, "image")


@given(
    st.binary(min_size=1), st.booleans(), st.integers(1, 80), st.sampled_from(["\n", "\r\n", " "])
)
def test_every_spelling_of_any_bytes_is_read(image, is_url_safe, width, separator):
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    text = encode(image).decode().rstrip("=")
    lines = separator.join(text[start : start + width] for start in range(0, len(text), width))
    assert read_inline_image(f"data:image/png;base64,{lines}", "image") == image


@pytest.mark.alone
@pytest.mark.slow
def test_the_usual_spelling_costs_no_more_than_decoding_and_no_spelling_costs_much():
    text = f"data:image/png;base64,{base64.b64encode(bytes(20_000_000)).decode()}"

    def best_s(read):
        times = []
        for _ in range(7):
            started_s = time.perf_counter()
            read()
            times.append(time.perf_counter() - started_s)
        return min(times)

    plainly_s = best_s(lambda: pybase64.b64decode(text.partition(",")[2], validate=True))
    assert best_s(lambda: read_inline_image(text, "image")) < 1.5 * plainly_s
    for dear in ("%2b" * 9_000_000, "%" * 20_000_000, " " * 20_000_000 + "A", "A-+_" * 5_000_000):
        started_s = time.process_time()
        with pytest.raises(InvalidField):
            read_inline_image(f"data:image/png;base64,{dear}A" + "=" * 3, "image")
        assert time.process_time() - started_s < 5
