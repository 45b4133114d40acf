"""Plays the cases, keeps what came of each, and tells two recordings apart."""

import json
import socket
import tempfile
import threading
from pathlib import Path

import httpx

from tests.house import normalising
from tests.house.cases import CHAT, chat, groups, text_part, user
from tests.house.running import run_service
from tests.house.upstream import REPLIES, Holding, chunk, event, sends, streams
from tests.service.fake_upstream import run_upstream

LONG_REPLIES = {
    "long stream": streams(*[event(chunk("x" * 200))] * 20),
    "long answer": sends({"choices": [{"message": {"content": "x" * 2000}}]}),
}


def record(only=None):
    """What came of every case, by group and name.

    Args:
        only: Name of the one group to play; None for all.
    """
    played = {}
    for group in groups(list(REPLIES)):
        if only is None or group.name == only:
            with run_upstream() as upstream, tempfile.TemporaryDirectory() as folder:
                # It serves whatever model is set.
                upstream.probe_reply = lambda handler: sends({"data": []})(handler, None)
                played[group.name] = play(group, upstream, Path(folder))
    return played


def play(group, upstream, folder):
    """Starts the group's service, sends its requests, and ends it."""
    settings = dict(group.settings)
    if group.has_upstream:
        settings["UPSTREAM_URL"] = upstream.url
    if group.keys is not None:
        (folder / "keys.toml").write_text(group.keys)
        settings["API_KEYS_FILE"] = folder / "keys.toml"
    names = [case.name for case in group.cases]
    assert len(set(names)) == len(names), "two cases of one name"
    shows = {"hides_pixels": group.hides_pixels or group.is_racy}
    with run_service(settings, folder) as service:
        told = {"start": lines_of(service.take_lines())}
        told["cases"] = {case.name: ask(service, upstream, case, shows) for case in group.cases}
        headers = {"authorization": "Bearer scraper"}
        exposition = service.client.get("/metrics", headers=headers).text
        told["metrics"], told["help"] = normalising.metrics(exposition, **shows)
        if group.is_racy:
            told["metrics"] = sorted(told["metrics"])
        service.take_lines()
    told["end"] = {"exit": service.process.returncode, "log": lines_of(service.take_lines())}
    return told


def lines_of(lines, **shows):
    """What is logged about several images has no order."""
    shown = (normalising.log_line(line, **shows) for line in lines)
    return sorted(line for line in shown if line is not None)


def ask(service, upstream, case, shows):
    """Sends one request and says what everybody saw of it."""
    upstream.bodies.clear()
    upstream.headers.clear()
    upstream.reply = (REPLIES | LONG_REPLIES).get(case.reply)
    if case.reply == "holding":
        return hold(service, upstream)
    if case.raw is not None:
        return {"raw": send_raw(service, case.raw), "log": lines_of(service.take_lines())}
    told, request_id = send(service.client, case, shows)
    told["log"] = lines_of(service.take_lines(request_id), **shows)
    told["upstream"] = [normalising.body(content, **shows) for content in upstream.bodies]
    told["upstream headers"] = [
        normalising.headers(headers.items(), varies=shows["hides_pixels"])
        for headers in upstream.headers
    ]
    return told


def send(client, case, shows):
    """What the client sees, and the id of its request."""
    request_id = None
    try:
        with client.stream(case.method, case.path, **case.request) as response:
            request_id = response.headers.get("x-request-id")
            told = {"status": response.status_code}
            content = b""
            try:
                for part in response.iter_bytes():
                    content += part
            except httpx.TransportError as error:
                told["broken"] = type(error).__name__
        told["body"] = normalising.body(content, **shows)
        varies = shows["hides_pixels"] or any(mark in told["body"] for mark in ("<ms>", "<time>"))
        told["headers"] = normalising.headers(response.headers.multi_items(), varies=varies)
        if response.is_error:  # whether the body was there before it was refused is chance
            told["headers"].pop("connection", None)
        if case.path == "/metrics" and response.is_success:
            told["body"] = told["headers"]["content-length"] = "<metrics>"
    except httpx.TransportError as error:
        told = {"failed": type(error).__name__}
    return told, request_id


def send_raw(service, content):
    """What is answered to these bytes until the connection ends."""
    answer = b""
    with socket.create_connection(service.address, timeout=3) as connection:
        try:
            connection.sendall(content)
            while part := connection.recv(65_536):
                answer += part
        except TimeoutError:
            answer += b"<stays open>"
        except OSError:
            answer += b"<reset>"
    shown = []
    for line in answer.decode("latin-1").split("\r\n"):
        name, colon, _ = line.partition(":")
        hidden = name.lower() in {"date", "x-request-id"}
        shown.append(f"{name}{colon} <given>" if hidden else line)
    return "\n".join(shown)


def hold(service, upstream):
    """One stream is open where one request may be: another is refused until it has ended."""
    upstream.reply = holding = Holding()
    statuses = []
    begun = threading.Event()

    def stream():
        with service.client.stream("POST", CHAT, **chat(user(text_part()), stream=True)) as first:
            for _ in first.iter_bytes():
                begun.set()
            statuses.append(first.status_code)

    thread = threading.Thread(target=stream)
    thread.start()
    assert begun.wait(60)
    upstream.reply = None
    refused = service.client.post(CHAT, **chat(user(text_part())))
    holding.may_end.set()
    thread.join()
    service.take_lines(refused.headers["x-request-id"])
    served = service.client.post(CHAT, **chat(user(text_part())))
    service.take_lines(served.headers["x-request-id"])
    return {"statuses": [*statuses, refused.status_code, served.status_code], "body": refused.text}


def write(played, file):
    Path(file).write_text(json.dumps(played, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def differences(before, after, place=""):
    """Where two recordings differ, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inner = f"{place} / {name}" if place else name
            yield from differences(before.get(name), after.get(name), inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif before != after:
        yield place, before, after
