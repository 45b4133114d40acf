"""The recorded requests: some two hundred, in groups that each have a service of their own."""

import base64
import json
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from tests.service.fake_engine import FAIL, marked
from tests.service.pictures import encode, hostile_images, picture, png

CHAT, VQA, CAPTION, PURIFY = "/v1/chat/completions", "/v1/vqa", "/v1/caption", "/v1/purify"
BAD = encode(marked(picture(), FAIL))
REMOTE = "https://pictures.example/a.png"
LONG = "word " * 10_000  # is read in a decode process
JSON_TYPE = {"content-type": "application/json"}


@dataclass(frozen=True)
class Case:
    """One request, and how the model behind the service takes it.

    Attributes:
        name: Unique in its group.
        path: Where it goes.
        request: Arguments of the HTTP client.
        method: POST, or another.
        reply: A name of `upstream.REPLIES`; None for a good answer.
        raw: Bytes that are sent as they are, in place of a request.
    """

    name: str
    path: str = ""
    request: dict = field(default_factory=dict)
    method: str = "POST"
    reply: str | None = None
    raw: bytes | None = None


@dataclass(frozen=True)
class Group:
    """Requests to one service, in order.

    Attributes:
        name: Unique.
        settings: By their names without the prefix.
        cases: The requests.
        keys: The file of keys; None for no file.
        has_upstream: Whether the fake model is behind it; else what the settings say.
        hides_pixels: Whether what is purified holds noise.
        is_racy: Whether one image's refusal finds others done or not.
    """

    name: str
    settings: dict
    cases: list
    keys: str | None = None
    has_upstream: bool = True
    hides_pixels: bool = False
    is_racy: bool = False


def url_of(image, media_type="image/png"):
    return f"data:{media_type};base64,{base64.b64encode(image).decode()}"


def as_form(image, **fields):
    return {"files": {"file": ("x", image)}, "data": fields}


def as_json(image, **fields):
    return {"json": {"image": base64.b64encode(image).decode(), **fields}}


def as_data_url(image, **fields):
    return {"json": {"image": url_of(image), **fields}}


def as_raw(image, **fields):
    return {"content": image, "headers": {"content-type": "image/png"}, "params": fields}


def image_part(image=None, **more):
    return {"type": "image_url", "image_url": {"url": url_of(image or png()), **more}}


def elsewhere(url):
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text="what is it?"):
    return {"type": "text", "text": text}


def user(*content):
    return {"role": "user", "content": list(content)}


def chat(*messages, **fields):
    return {"json": {"model": "m", "messages": list(messages), **fields}}


def suspect(level, seed=0, height=48, width=64):
    """The fake engine's suspicion is the level of the last pixel, of 255."""
    pixels = picture(height, width, seed).copy()
    pixels[-1, -1] = level
    return encode(pixels)


ENVELOPES = {"json": as_json, "data URL": as_data_url, "form": as_form, "raw": as_raw}


def conversation(**fields):
    """Images in every place and shape, none of them suspicious."""
    images = [suspect(20 * index, index, 40, 40 + 8 * index) for index in range(6)]
    return chat(
        {"role": "system", "content": [image_part(images[0])]},
        user(text_part(), image_part(images[1], detail="high"), image_part(images[2])),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "1", "content": [text_part(), image_part(images[3])]},
        {"role": "assistant", "content": [text_part("done"), {"type": "refusal", "refusal": "n"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": url_of(images[4])}, "so?"]},
        user(image_part(images[5])),
        **fields,
    )


FULL_BODY = {
    "n": 2, "logprobs": True, "top_logprobs": 3, "tool_choice": "auto", "seed": 7,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"image": "x"}}}],
    "response_format": {"type": "json_object"}, "temperature": 0.30000000000000004,
    "max_completion_tokens": 17, "stop": ["\n", "data:"],
    "metadata": {"a": {"b": [1, None, True, 1e-7]}}, "never_heard_of": 12345678901234567890,
}  # fmt: skip


def good_cases():
    """Every endpoint, envelope, format and shape."""
    for name, envelope in ENVELOPES.items():
        yield Case(f"purify {name}", PURIFY, envelope(png(50, 70)))
        yield Case(f"vqa {name}", VQA, envelope(png(), question="what {is} it?"))
        yield Case(f"caption {name}", CAPTION, envelope(png()))
    for output in ("png", "jpeg", "webp"):
        yield Case(f"purify to {output}", PURIFY, as_form(png(), output_format=output))
        image = encode(picture(seed=3), output.upper())
        yield Case(f"vqa of {output}", VQA, as_form(image, question="?"))
        yield Case(f"chat of {output}", CHAT, chat(user(elsewhere(url_of(image, "image/any")))))
        bare = elsewhere(f" {base64.b64encode(image).decode()}\n")
        yield Case(f"chat of bare {output}", CHAT, chat(user(bare)))
    for accept in ("image/*", "image/webp", "image/jpeg;q=0.9, */*", "*/*", "text/html"):
        yield Case(f"accept {accept}", PURIFY, as_form(png()) | {"headers": {"accept": accept}})
    clear, grey = np.zeros((8, 8, 4), np.uint8), picture()[..., 0]
    yield Case("transparent", PURIFY, as_form(encode(clear)))
    yield Case("grey", PURIFY, as_form(encode(grey)))
    yield Case("one pixel", PURIFY, as_form(png(1, 1)))
    yield Case("another prompt", CAPTION, as_form(png(), prompt="name the colour"))
    fields = {"question": "?", "model": "llava", "max_tokens": 5, "temperature": 0.5}
    yield Case("fields of a question", VQA, as_json(png(), **fields))
    yield Case("vqa streamed", VQA, as_form(png(), question="?", stream="true"))
    yield Case("caption streamed", CAPTION, as_json(png(), stream=True))
    yield Case("conversation", CHAT, conversation())
    yield Case("conversation shown", CHAT, conversation(codefend={"return_image": True}))
    yield Case("conversation streamed", CHAT, conversation(stream=True), reply="stream")
    shown = {"stream": True, "codefend": {"return_image": True}}
    yield Case("conversation streamed, shown", CHAT, conversation(**shown), reply="stream")
    yield Case("full body", CHAT, chat(user(text_part("ünï 😀"), image_part()), **FULL_BODY))
    yield Case("text alone", CHAT, chat({"role": "user", "content": "hi {question}"}, x=1.5))
    yield Case("long text", CHAT, chat(user(text_part(LONG), image_part())))
    yield Case("no model", CHAT, {"json": {"messages": [user(text_part(), image_part())]}})
    yield Case("null model", CHAT, {"json": {"messages": [user(text_part())], "model": None}})
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    yield Case("usage", CHAT, chat(user(image_part()), **usage), reply="stream with usage")
    for level in (0, 128, 252, 255):
        yield Case(f"suspicion {level}", VQA, as_form(suspect(level), question="?"))
    yield Case("trailing slash", f"{VQA}/", as_form(png(), question="?"))
    for path in ("/healthz", "/readyz", "/v1/models", "/docs", "/openapi.json"):
        yield Case(f"get {path}", path, method="GET")
        yield Case(f"head {path}", path, method="HEAD")


def faulty_cases():
    """What is refused, and how."""
    for name, image, _, _ in hostile_images():
        yield Case(f"purify {name}", PURIFY, as_form(image))
        if image:
            yield Case(f"chat {name}", CHAT, chat(user(text_part(), elsewhere(url_of(image)))))
    for changes in (
        {}, {"question": ""}, {"question": "?", "top_k": 1}, {"question": "?", "max_tokens": 0},
        {"question": "?", "max_tokens": 9999}, {"question": "?", "temperature": 3},
        {"question": "?" * 5000}, {"question": "?" * 70_000}, {"question": f"![]({REMOTE})"},
        {"question": f"![]({url_of(png())[:900]})"}, {"question": "?", "stream": "maybe"},
    ):  # fmt: skip
        shown = json.dumps(changes)[:40]
        yield Case(f"vqa {shown} of {len(str(changes))}", VQA, as_form(png(), **changes))
    yield Case("output gif", PURIFY, as_form(png(), output_format="gif"))
    for value in (7, "@@@@", "data:image/png,abc", REMOTE, "file:///etc/passwd", "//a.b/c", None):
        yield Case(f"image {value}", PURIFY, {"json": {"image": value}})
        yield Case(f"chat image {value}", CHAT, chat(user(elsewhere(value))))
    for body in (b"{", b"[1]", b"", b"\xff\xfe", b'{"messages": 3}', b'{"model": "m"}',
                 b'{"messages": [], "messages": []}', b"[" * 100_000,
                 b'{"messages": [{"role": "user", "content": "x", "content": "y"}]}'):  # fmt: skip
        request = {"content": body, "headers": JSON_TYPE}
        yield Case(f"chat body {body[:30]!r} of {len(body)}", CHAT, request)
        yield Case(f"vqa body {body[:30]!r} of {len(body)}", VQA, request)
    yield Case("chat as form", CHAT, {"data": {"a": "b"}})
    yield Case("purify without a file", PURIFY, {"data": {"a": "b"}})
    form = {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}
    yield Case("broken form", PURIFY, form)
    yield Case("too long", PURIFY, {"content": b"a" * (3 << 20)})
    for path, method in product(("/v1/responses", "/v1/files", "/v1/models/x", "/nothing"),
                                ("GET", "POST")):  # fmt: skip
        yield Case(f"{method} {path}", path, method=method)
    for path, method in ((VQA, "GET"), ("/healthz", "POST"), (CHAT, "DELETE"), (PURIFY, "PUT")):
        yield Case(f"{method} {path}", path, method=method)
    yield Case("get with a body", "/v1/models", {"content": b"x"}, method="GET")
    yield Case("cannot be purified", VQA, as_form(BAD, question="?"))


RAW_URL = url_of(png(seed=9))
FIELD_CASES = {
    "extra_body": {"extra_body": {"messages": [user(elsewhere(REMOTE))]}},
    "fallbacks": {"fallbacks": [{"model": "m2", "messages": [user(elsewhere(RAW_URL))]}]},
    "documents": {"documents": [RAW_URL]},
    "inline_data": {"inline_data": {"data": RAW_URL}},
    "prediction": {"prediction": RAW_URL},
    "chat_template": {"chat_template": "{{x}}"},
    "kv_transfer_params": {"kv_transfer_params": {"a": 1}},
    "api_base": {"api_base": "http://10.0.0.1"},
    "nobody's": {"never_heard_of": [{"deep": RAW_URL}]},
    "stop": {"stop": [f"![]({RAW_URL})"]},
    "n": {"n": 99},
    "max_tokens": {"max_tokens": 99_999},
    "codefend": {"codefend": {"nothing": 1}},
}
PARTS = {
    "remote": elsewhere(REMOTE),
    "audio": {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
    "file": {"type": "file", "file": {"file_data": RAW_URL}},
    "video": {"type": "video_url", "video_url": {"url": RAW_URL}},
    "text with an image": text_part(f"look: {RAW_URL}"),
    "no type": {"text": "x"},
    "unknown field": text_part() | {"foo": ["x"]},
    "gif": elsewhere(url_of(encode(picture(), "GIF"), "image/gif")),
    "broken": elsewhere(url_of(png(200, 200)[:-2000])),
    "placeholder": text_part("<image> and ![](https://a.example/b.png) <img src='x'>"),
}


def field_cases():
    """Fields and parts of a conversation that do not simply pass."""
    for name, fields in FIELD_CASES.items():
        yield Case(f"field {name}", CHAT, chat({"role": "user", "content": "hi"}, **fields))
    for name, part in PARTS.items():
        yield Case(f"part {name}", CHAT, chat(user(text_part(), part)))
        yield Case(f"part {name}, long", CHAT, chat(user(text_part(LONG), part)))


def upstream_cases(replies):
    """Everything a model can do to a question and a conversation, whole and streamed."""
    for name in replies:
        yield Case(f"vqa: {name}", VQA, as_form(png(), question="?"), reply=name)
        yield Case(f"chat: {name}", CHAT, chat(user(image_part())), reply=name)
        streamed = chat(user(image_part()), stream=True)
        yield Case(f"chat streamed: {name}", CHAT, streamed, reply=name)
        if not name.startswith("status"):
            asked = as_form(png(), question="?", stream="true")
            yield Case(f"vqa streamed: {name}", VQA, asked, reply=name)


def switched_cases():
    """What modes and policies change."""
    yield Case("vqa", VQA, as_form(encode(picture(), "JPEG"), question="?"))
    yield Case("caption streamed", CAPTION, as_form(png(), stream="true"))
    yield Case("purify", PURIFY, as_form(png()))
    yield Case("conversation", CHAT, conversation(codefend={"return_image": True}))
    yield Case("streamed", CHAT, conversation(stream=True), reply="stream")
    yield Case("bad image", VQA, as_form(BAD, question="?"))
    yield Case("bad image, purify", PURIFY, as_form(BAD))
    yield Case("flagged", VQA, as_form(suspect(255, seed=4), question="?"))
    yield Case("no image", VQA, as_form(b"no image", question="?"))
    yield Case("no question", VQA, as_form(png()))
    yield Case("models", "/v1/models", method="GET")


def racy_cases():
    """One image of several that is refused, or passed: where it is refused, others may be done."""
    yield Case("one bad image", CHAT, chat(user(image_part(), image_part(BAD))))
    flagged = chat(user(image_part(suspect(10, seed=6)), image_part(suspect(255, seed=6))))
    yield Case("one flagged", CHAT, flagged)


def with_key(case, key):
    """The same request of another caller."""
    headers = case.request.get("headers", {}) | {"authorization": f"Bearer {key}"}
    request = case.request | {"headers": headers}
    return Case(f"{key}: {case.name}", case.path, request, case.method, case.reply)


KEYS = """
[policies.watch]
mode = "shadow"
disclose = "minimal"

[[keys]]
name = "plain"
key = "plain"

[[keys]]
name = "watched"
key = "watched"
policy = "watch"

[[keys]]
name = "lenient"
key = "lenient"
on_purify_failure = "pass"

[[keys]]
name = "strict"
key = "strict"
policy = "watch"
mode = "enforce"
on_flagged = "refuse"

[[keys]]
name = "slow"
key = "slow"
max_requests_per_minute = 2

[[keys]]
name = "scraper"
key = "scraper"
endpoints = ["/metrics"]
"""


def key_cases():
    """Callers under different policies; the same picture again is a replay."""
    request = as_form(png(seed=8), question="?")
    twice = [Case("once", VQA, request), Case("again", VQA, request)]
    for key in ("plain", "watched", "lenient", "strict"):
        for case in (*twice, *switched_cases()):
            yield with_key(case, key)
    for number in range(3):
        case = Case(f"number {number}", VQA, as_form(png(seed=number), question="?"))
        yield with_key(case, "slow")
    paths = ("/metrics", "/v1/models", "/openapi.json", "/nothing")
    for key, path in product(("plain", "scraper", "nobody's"), paths):
        yield with_key(Case(f"get {path}", path, method="GET"), key)
    yield Case("no key", VQA, as_form(png(), question="?"))
    for value in ("Basic plain", "Bearer", "plain", "Bearer plain x"):
        headers = {"authorization": value}
        yield Case(f"header {value}", "/v1/models", {"headers": headers}, method="GET")
    yield Case("x-api-key", "/v1/models", {"headers": {"x-api-key": "plain"}}, method="GET")
    yield Case("probe without a key", "/healthz", method="GET")


HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"
RAW = {
    "no host": b"GET /healthz HTTP/1.1\r\n" + CLOSE + b"\r\n",
    "http 1.0": b"GET /healthz HTTP/1.0\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "two in a row": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
    + (b"GET /readyz HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"),
    "long header": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 500 + CLOSE + b"\r\n",
    "two lengths": b"POST /v1/vqa HTTP/1.1\r\n" + HOST + CLOSE
    + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST /v1/vqa HTTP/1.1\r\n" + HOST + CLOSE
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"POST /v1/vqa HTTP/1.1\r\n" + HOST + CLOSE
    + b"Content-Length: -1\r\n\r\n",
    "a length too long": b"POST /v1/vqa HTTP/1.1\r\n" + HOST + CLOSE
    + b"Content-Length: 999999999999\r\n\r\n",
    "a bad chunk": b"POST /v1/vqa HTTP/1.1\r\n" + HOST + CLOSE
    + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "upgrade": b"GET /healthz HTTP/1.1\r\n" + HOST
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "expect": b"POST /v1/vqa HTTP/1.1\r\n" + HOST + CLOSE
    + b"Content-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}",
    "absolute": b"GET http://localhost/healthz HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "escaped path": b"GET /%68ealthz HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "another host": b"GET /v1/models HTTP/1.1\r\nHost: a.example\r\n" + CLOSE + b"\r\n",
    "connect": b"CONNECT localhost:443 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
}  # fmt: skip
LIMITS = {
    "MAX_PIXELS": 10_000, "MAX_SIDE_PX": 300, "MAX_IMAGES": 3, "MAX_REQUEST_PIXELS": 8_000,
    "MAX_BODY_BYTES": 200_000, "MAX_ANSWER_TOKENS": 100, "MAX_CHOICES": 2,
    "MAX_ANSWER_BYTES": 1024, "MAX_STREAM_BYTES": 1024,
    "UNKNOWN_FIELDS": "drop", "ALLOWED_FIELDS": "chat_template,messages.foo",
    "UPSTREAM_READS_TEXT_IMAGES": "markdown,html,placeholders", "DISCLOSE": "minimal",
    "ON_FLAGGED": "refuse", "ON_PURIFY_FAILURE": "pass", "UPSTREAM_MODEL": "named",
    "UPSTREAM_KEY": "theirs",
}  # fmt: skip


def limit_cases():
    """Under tight limits."""
    yield from switched_cases()
    yield from field_cases()
    for number in (2, 3, 4):
        parts = [image_part(png(40, 50, seed=index)) for index in range(number)]
        yield Case(f"{number} images", CHAT, chat(user(*parts)))
    yield Case("5 small images", CHAT, chat(user(*[image_part(png(8, 8))] * 5)))
    yield Case("large", VQA, as_form(png(120, 120), question="?"))
    yield Case("wide", VQA, as_form(png(2, 400), question="?"))
    yield Case("long body", VQA, as_form(png() + b"x" * 300_000, question="?"))
    long = as_form(png(), question="?", max_tokens=101)
    yield Case("long answer asked for", VQA, long)
    yield Case("stream too long", CHAT, chat(user(text_part()), stream=True), reply="long stream")
    yield Case("answer too long", CHAT, chat(user(text_part())), reply="long answer")
    yield Case("its own model", CHAT, chat(user(text_part()), model=""))


def embedded_cases():
    """The model that is shipped answers: whole, streamed, and about several images."""
    short = {"max_tokens": 6}
    for size, seed in ((64, 0), (96, 1)):
        image = png(size, size, seed=seed)
        yield Case(f"vqa {size}", VQA, as_form(image, question="what is it?", **short))
        yield Case(f"caption {size}", CAPTION, as_form(image, **short))
    yield Case("streamed", VQA, as_form(png(), question="?", stream="true", **short))
    several = [image_part(png()), image_part(png(seed=1)), text_part()]
    yield Case("several images", CHAT, chat(user(*several), **short))
    yield Case("several images streamed", CHAT, chat(user(*several), stream=True, **short))
    yield Case("greedy", CHAT, chat(user(text_part("hello")), temperature=0, **short))
    yield Case("too many tokens", CHAT, chat(user(*several * 9)))
    yield Case("models", "/v1/models", method="GET")


def real_cases():
    """The purifier and the detector that are shipped."""
    yield Case("vqa", VQA, as_form(png(), question="?"))
    yield Case("purify to webp", PURIFY, as_form(png(64, 96), output_format="webp"))
    several = chat(user(image_part(), image_part(png(40, 40, seed=1)), text_part()))
    yield Case("several images", CHAT, several)
    yield Case("streamed", CAPTION, as_form(png(), stream="true"))


def groups(replies):
    """All of them, with the replies that the model behind the service can give."""
    off, no_engine = {"MODE": "off"}, {"ENGINE": "tests.house.cases:no_such_loader"}
    common = {"MAX_BODY_BYTES": 2 << 20}
    raw = [Case(name, raw=content) for name, content in RAW.items()]
    return [
        Group("good", common, list(good_cases())),
        Group("faulty", common, list(faulty_cases())),
        Group("fields", {}, list(field_cases())),
        Group("fields in shadow", {"MODE": "shadow"}, list(field_cases())),
        Group("upstream", {}, list(upstream_cases(replies))),
        Group("shadow", {"MODE": "shadow"}, [*switched_cases(), *racy_cases()]),
        Group("races", {}, list(racy_cases()), is_racy=True),
        Group("refusing races", {"ON_FLAGGED": "refuse"}, list(racy_cases()), is_racy=True),
        Group("passing", {"ON_PURIFY_FAILURE": "pass"}, [*switched_cases(), *racy_cases()]),
        Group("off", off | no_engine, [*switched_cases(), *racy_cases(), *field_cases()]),
        Group("keys", {"CACHE_BYTES": 1 << 20}, list(key_cases()), keys=KEYS),
        Group("limits", LIMITS, list(limit_cases())),
        Group("door", {}, raw),
        Group("full", {"MAX_REQUESTS": 1}, [Case("full", reply="holding")]),
        Group("breaker", {"UPSTREAM_BREAKER_FAILURES": 2}, breaker_cases()),
        Group("nobody behind", {"UPSTREAM_URL": "http://127.0.0.1:9/v1"},
              list(switched_cases()), has_upstream=False),
        Group("late", {"DEADLINE_S": 3, "PURIFIER": json.dumps({"seconds": 9})},
              [Case("late", VQA, as_form(png(), question="?"))]),
        Group("real purifier", {"ENGINE": "", "PURIFIER": "", "DETECTOR": ""},
              list(real_cases()), hides_pixels=True),
        Group("embedded", off | no_engine, list(embedded_cases()), has_upstream=False),
    ]  # fmt: skip


def breaker_cases():
    """Failures until nobody is asked any more."""
    asked = as_form(png(), question="?")
    failing = [Case(f"failure {number}", VQA, asked, reply="status 500") for number in range(4)]
    return [*failing, Case("purify all the same", PURIFY, as_form(png()))]
