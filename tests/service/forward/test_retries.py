"""Only what certainly did not arrive is sent again."""

import httpx
import pytest

from codefend.service.forward.failures import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Reason,
    UpstreamFailure,
    as_failure,
    may_retry,
    pauses,
)


@pytest.mark.parametrize(
    ("failure", "post", "get"),
    [
        (as_failure(httpx.ConnectError("")), True, True),
        (as_failure(httpx.ConnectTimeout("")), True, True),
        (as_failure(httpx.ReadError(""), is_unsent=True), True, True),
        # The whole request went out: the model may have it, or have died of it.
        (as_failure(httpx.ReadError("")), False, True),
        (as_failure(httpx.RemoteProtocolError("Server disconnected without")), False, True),
        (as_failure(httpx.RemoteProtocolError("illegal status line")), False, False),
        (as_failure(httpx.WriteTimeout("")), False, True),
        (as_failure(httpx.ReadTimeout("")), False, True),
        (as_failure(httpx.PoolTimeout("")), False, False),
        (as_failure(httpx.ProxyError("")), False, True),
        (UpstreamFailure(Reason.CUT), False, False),
        (UpstreamFailure(Reason.NONSENSE), False, False),
        *(
            (UpstreamFailure.of_status(status, "", b""), False, True)
            for status in (500, 502, 503, 504)
        ),
        *(
            (UpstreamFailure.of_status(status, "", b""), False, False)
            for status in (400, 404, 429, 501)
        ),
    ],
    ids=lambda value: getattr(value, "reason", None),
)
def test_what_may_be_sent_again(failure, post, get):
    assert may_retry(failure, is_idempotent=False) is post
    assert may_retry(failure, is_idempotent=True) is get


def test_pauses_are_drawn_below_a_doubling_bound():
    assert list(pauses(0)) == []
    assert list(pauses(3, lambda _, most: most)) == [FIRST_PAUSE_S * 2**n for n in range(3)]
    assert max(pauses(50, lambda _, most: most)) == LONGEST_PAUSE_S
    assert all(0 <= pause_s <= LONGEST_PAUSE_S for pause_s in pauses(10))
