import pytest

from codefend.service.door.connections import check_head
from codefend.service.errors import MalformedRequest

HOST = (b"host", b"a:1")


@pytest.mark.parametrize(
    ("version", "target", "fields"),
    [
        ("1.1", b"/", [HOST]),
        ("1.0", b"/", []),
        ("1.1", b"*", [HOST]),
        ("1.1", b"//v1/models", [HOST]),
        ("1.1", b"http://A:1/v1/models?x", [HOST]),
        ("1.1", b"HTTPS://a:1", [HOST]),
        ("1.1", b"/", [HOST, (b"transfer-encoding", b"Chunked ")]),
        ("1.1", b"/", [HOST, (b"accept", b"a"), (b"accept", b"b")]),
    ],
)
def test_sound_heads_pass(version, target, fields):
    check_head(version, target, fields)


@pytest.mark.parametrize(
    ("version", "target", "fields"),
    [
        ("0.9", b"/", [HOST]),
        ("2.0", b"/", [HOST]),
        ("1.1", b"/", []),
        ("1.1", b"/", [HOST, HOST]),
        ("1.0", b"/", [HOST, HOST]),
        ("1.1", b"/", [HOST, (b"content-type", b"a"), (b"content-type", b"a")]),
        ("1.1", b"/", [HOST, (b"transfer-encoding", b"gzip, chunked")]),
        ("1.0", b"/", [HOST, (b"transfer-encoding", b"chunked")]),
        ("1.1", b"http://other/v1/models", [HOST]),
        ("1.1", b"http://a:1@other/", [HOST]),
        ("1.1", b"ftp://a:1/", [HOST]),
        ("1.1", b"v1/models", [HOST]),
    ],
)
def test_heads_that_two_readers_could_read_in_two_ways_are_refused(version, target, fields):
    with pytest.raises(MalformedRequest):
        check_head(version, target, fields)
