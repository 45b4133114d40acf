"""Clients that do not read what they asked for."""

from tests.faults.served import served, wait_for_metric
from tests.service.raw_upstream import STREAM_HEAD, chunked, run_raw_upstream, without_end, words
from tests.service.test_chat import PATH, chat, text_part, user

INSIDE = "codefend_requests_in_flight 1.0"
GONE = 'codefend_requests_total{endpoint="/v1/chat/completions",outcome="client_left"} 1.0'


def test_who_reads_nothing_of_a_stream_is_cut_off_and_leaves_its_place(weights, monkeypatch):
    monkeypatch.setenv("CODEFEND_UNREAD_TIMEOUT_S", "1")
    body = chat(user(text_part("Go on."))) | {"model": "m", "stream": True}
    with run_raw_upstream() as raw, served(raw, weights) as (_, client):
        raw.script = without_end(STREAM_HEAD, chunked(words("on and on") * 100))
        with client.stream("POST", PATH, json=body):  # its head is read, and nothing else
            assert INSIDE in client.get("/metrics").text
            wait_for_metric(client, GONE, 30)
        assert INSIDE not in client.get("/metrics").text
