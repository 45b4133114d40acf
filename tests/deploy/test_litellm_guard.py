"""The plug-in for LiteLLM's proxy, without LiteLLM: what it finds, and what it refuses."""

import asyncio
import copy
import importlib.util
import json
import re
import socket
import sys
import types
from pathlib import Path
from unittest import mock

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from codefend.service.protocols.fields import MEDIA_FIELDS, MEDIA_TYPES
from tests.fuzz.planted import DATA_URL, PICTURE, PICTURE_MARK, planted_requests
from tests.fuzz.planted_run import GROUNDS
from tests.service.decode.test_honest import RECORDED, image_urls

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/litellm/codefend_guard.py"
CONFIG = yaml.safe_load(FILE.with_name("config.yaml").read_text())
DOCUMENTED = (ROOT / "docs/gateways.md").read_text()
# The paths in the first column of the table of those that call no hook.
ROWS = re.findall(
    r"^\| (`/[^|]*)", DOCUMENTED.split("\n### Routes that skip it\n")[1], re.MULTILINE
)
SKIPPING = set(re.findall(r"`(/[^`]*)`", " ".join(ROWS)))
PURIFIED = "data:image/png;base64,UFVSSUZJRUQ="
REMOTE = "https://pictures.example/a.png"


def load():
    """The plug-in, with something in the place of LiteLLM's base class."""
    base = types.ModuleType("litellm.integrations.custom_logger")
    base.CustomLogger = type("CustomLogger", (), {})
    spec = importlib.util.spec_from_file_location("codefend_guard", FILE)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {base.__name__: base, "codefend_guard": module}):
        spec.loader.exec_module(module)
    return module


plugin = load()


def purify(document, **options):
    """What the model would get; every image is replaced by one and the same."""
    document = copy.deepcopy(document)
    for image in plugin.ImageReader(**options).read(document):
        image.put(PURIFIED)
    return document


def refusal(document, **options):
    with pytest.raises(plugin.Refused) as refused:
        purify(document, **options)
    return refused.value


def in_chat(fields):
    return {"messages": [{"role": "user", "content": "hi"}]} | fields


def says(*parts, role="user"):
    return {"messages": [{"role": role, "content": list(parts)}]}


def image(url=DATA_URL):
    return {"type": "image_url", "image_url": {"url": url}}


def source(**changes):
    value = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    return {"type": "image", "source": value | changes}


def item(*parts):
    return {"input": [{"role": "user", "content": list(parts)}]}


INPUT_IMAGE = {"type": "input_image", "image_url": DATA_URL}
TOOL_RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [source()]}
UNDERSTOOD = {
    "chat": (says(image(), {"type": "image_url", "image_url": DATA_URL}), 2),
    "bare base64": (says(image(PICTURE)), 1),
    "a tool's": (says(image(), role="tool"), 1),
    "responses": (item(INPUT_IMAGE, INPUT_IMAGE | {"detail": "high"}), 2),
    "responses, a tool's": ({"input": [{"type": "function_call_output", "call_id": "c",
        "output": [{"type": "input_image", "image_url": DATA_URL, "detail": "auto"}]}]}, 1),
    "messages": (says(source(), {"type": "text", "text": "x"}, source(media_type="image/webp")), 2),
    "messages, a tool's": (says(TOOL_RESULT), 1),
    "merged by the gateway": (in_chat({"extra_body": says(image())}), 1),
    "asked instead": (in_chat({"fallbacks": [{"model": "m2"} | says(image())]}), 1),
    "an assistant's": (says(image(), role="assistant"), 1),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_images_are_found_and_replaced(case):
    document, number = UNDERSTOOD[case]
    purified = json.dumps(purify(document))
    assert PICTURE_MARK not in purified
    assert purified.count("UFVSSUZJRUQ=") == number


def test_a_source_says_what_it_holds_now():
    (part,) = purify(says(source(media_type="image/webp")))["messages"][0]["content"]
    assert part == source(data="UFVSSUZJRUQ=")


REFUSED = {
    "a chat's string of an image": says({"type": "image", "image": DATA_URL}),
    "a file": says({"type": "file", "file": {"file_data": DATA_URL}}),
    "a file by its id": says({"type": "file", "file": {"file_id": "f-1"}}),
    "an input file": item({"type": "input_file", "file_id": "f-1"}),
    "an image by its id": item({"type": "input_image", "file_id": "f-1"}),
    "a document": says({"type": "document", "source": {"type": "url", "url": REMOTE}}),
    "a PDF": says(source(media_type="application/pdf") | {"type": "document"}),
    "a source elsewhere": says({"type": "image", "source": {"type": "url", "url": REMOTE}}),
    "a source by its id": says({"type": "image", "source": {"type": "file", "file_id": "f-1"}}),
    "a source with more": says(source(url=REMOTE)),
    "a video": says({"type": "video_url", "video_url": {"url": DATA_URL}}),
    "audio": says({"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}),
    "Gemini's": in_chat({"contents": [{"parts": [{"inline_data": {"data": PICTURE}}]}]}),
    "Gemini's, elsewhere": in_chat({"contents": [{"parts": [{"file_data": {"file_uri": "gs://a/b"}}]}]}),
    "Bedrock's": says({"image": {"format": "png", "source": {"bytes": PICTURE}}}),
    "a screenshot": {"input": [{"type": "computer_call_output", "call_id": "c",
        "output": {"type": "computer_screenshot", "image_url": DATA_URL}}]},
    "a made image": {"input": [{"type": "image_generation_call", "id": "i", "result": PICTURE}]},
    "an item by its id": {"input": [{"type": "item_reference", "id": "i"}]},
    "a stored prompt": {"input": "hi", "prompt": {"id": "pmpt_1"}},
    "an answer before": {"input": "hi", "previous_response_id": "resp_1"},
    "a conversation": {"input": "hi", "conversation": "conv_1"},
    "a tool that fetches": in_chat({"tools": [{"type": "web_fetch_20250910", "name": "f"}]}),
    "a tool that looks": {"input": "hi", "tools": [{"type": "web_search_preview"}]},
    "a server of tools": {"input": "hi", "tools": [{"type": "mcp", "server_url": REMOTE}]},
    "a text with an image": says({"type": "text", "text": f"look ![]({DATA_URL})"}),
    "a text that is one": says({"type": "text", "text": DATA_URL}),
    "bare base64 somewhere": in_chat({"image_base64": PICTURE}),
    "bare base64 under any name": in_chat({"payload": {"x": [PICTURE]}}),
    "an image in a schema": in_chat({"response_schema": says(image(REMOTE))}),
    "an image in a call": says({"type": "tool_use", "id": "t", "input": [source()]}),
    "documents": in_chat({"documents": [PICTURE]}),
    "a URL under any name": in_chat({"payload": REMOTE}),
    "a URL with a tab in it": in_chat({"payload": "http:/\t/a.example"}),
    "a name that is one": in_chat({"payload": {DATA_URL: 1}}),
    "another case": says({"type": "image_url", "Image_URL": {"Url": DATA_URL}}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_be_an_image_and_is_not_understood_is_refused(case):
    assert refusal(REFUSED[case]).status_code == 400


def test_what_is_nested_too_deeply_is_refused():
    nested = [image()]
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(plugin.Refused, match="too deeply"):
        plugin.ImageReader().read({"messages": nested})


@pytest.mark.parametrize("value", [b"\x89PNG", object(), (1, 2)], ids=["bytes", "file", "tuple"])
def test_files_of_forms_are_refused(value):
    assert "is a file" in refusal({"model": "m", "mask": value}).message


@pytest.mark.parametrize("name", sorted(MEDIA_FIELDS - {"image_url", "source", "urls"}))
@pytest.mark.parametrize("value", ["R0lGODlhAQABAAAAACw=", ["a"], {"a": "b"}, [PICTURE]])
def test_every_field_that_the_service_calls_a_medium_is_closed(name, value):
    assert refusal(in_chat({name: value})).status_code == 400


def test_no_type_that_the_service_calls_a_medium_is_understood_but_images():
    images = {"image", "image_url", "input_image"}
    assert images == plugin.TYPES & MEDIA_TYPES


def test_a_refusal_names_the_place_and_the_setting():
    message = refusal(says({"type": "text", "text": "x"}, {"type": "input_audio"})).message
    assert message.startswith("messages[0].content[1] is of the type 'input_audio'")
    assert "CODEFEND_GUARD_ALLOW=input_audio" in message


def test_what_the_operator_opens_passes():
    document = says({"type": "input_audio", "input_audio": {"data": PICTURE}})
    assert purify(document, allowed=frozenset({"input_audio"})) == document


@pytest.mark.parametrize("text", [REMOTE, PICTURE, "gs://a/b", "//a.example/b"])
def test_where_an_upstream_may_load_a_text_it_is_no_address(text):
    assert purify({"input": [text]}) == {"input": [text]}
    assert refusal({"input": [text]}, is_conversation=False).status_code == 400
    fine = {"input": [f"see {text}", "Data: a, b"]}
    assert purify(fine, is_conversation=False) == fine


def test_what_real_clients_send_passes():
    bodies = [body for bodies in RECORDED.values() for body in bodies]
    for body in bodies:
        assert len(list(image_urls(body))) == len(plugin.ImageReader().read(copy.deepcopy(body)))
    assert len(bodies) > 100


@pytest.mark.parametrize("name", sorted(plugin.FREE_JSON))
def test_json_of_the_caller_s_own_holds_addresses_and_no_images(name):
    argument = {"image_url": REMOTE, "source": {"type": "string"}}
    assert purify(in_chat({name: argument})) == in_chat({name: argument})
    for part in (image(REMOTE), source(), INPUT_IMAGE):
        assert refusal(in_chat({name: {"a": [part]}})).status_code == 400


@given(st.one_of(planted_requests(ground) for ground in GROUNDS.values()))
def test_nothing_that_is_planted_goes_round_it(document):
    # The names of options are LiteLLM's affair; and it writes its own objects over a client's.
    text = json.dumps(document).replace('{"type": "x"}', '{"type": "ephemeral"}')
    document = {k: v for k, v in json.loads(text).items() if k not in plugin.OWN_FIELDS}
    try:
        purified = purify(document)
    except plugin.Refused:
        return
    assert list(complaints(purified)) == []


AS_TEXT = plugin.TEXTS | plugin.FREE_JSON | plugin.METADATA


def complaints(value, names=()):
    """Marked texts that stand neither among texts nor in signatures, or are images as they are."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from complaints(name, names)
            yield from complaints(entry, (*names, name))
    elif isinstance(value, list):
        for entry in value:
            yield from complaints(entry, names)
    elif isinstance(value, str) and (PICTURE_MARK in value or "planted.example" in value):
        is_opaque = names[-1:] and names[-1] in {*plugin.OPAQUE, "data"}
        is_data = value.casefold().startswith("data:") or "![look]( <data" in value
        if is_data or not (is_opaque or AS_TEXT & {*names}):
            yield names, value[:60]


# The hook.


def call(guard, data, call_type="acompletion"):
    return asyncio.run(guard.async_pre_call_hook(None, None, data, call_type))


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_without_a_guard_no_image_passes_and_texts_do():
    url = f"http://127.0.0.1:{unused_port()}"
    guard = plugin.CodefendGuard({"CODEFEND_GUARD_URL": url})
    with pytest.raises(plugin.Refused) as refused:
        call(guard, says(image()))
    assert refused.value.status_code == 503
    assert call(guard, in_chat({})) == in_chat({})


@pytest.mark.parametrize("call_type", sorted(plugin.SESSIONS))
def test_sessions_are_closed(call_type):
    with pytest.raises(plugin.Refused):
        call(plugin.CodefendGuard({}), {"model": "m"}, call_type)
    opened = plugin.CodefendGuard({"CODEFEND_GUARD_ALLOW": f"a, {call_type}"})
    assert call(opened, {"model": "m"}, call_type) == {"model": "m"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CODEFEND_GUARD_URL", "guard:8000"),
        ("CODEFEND_GUARD_URL", "http://"),
        ("CODEFEND_GUARD_TIMEOUT_S", "0"),
        ("CODEFEND_GUARD_TIMEOUT_S", "nan"),
        ("CODEFEND_GUARD_TIMEOUT_S", "soon"),
    ],
)
def test_a_wrong_setting_ends_the_proxy_at_its_start(name, value):
    with pytest.raises(ValueError, match=r"."):
        plugin.CodefendGuard({name: value})


def test_the_documented_configuration_is_the_file_s():
    assert FILE.with_name("config.yaml").read_text().partition("\n")[2] in DOCUMENTED
    assert len(SKIPPING) > 10
