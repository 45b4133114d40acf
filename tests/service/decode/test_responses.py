"""The table of OpenAI's responses: beside its client's types, and what of a request passes."""

import json
import re
from pathlib import Path

import openai.types.responses
import pytest
from openai.types.responses import response_create_params, response_input_item_param, tool_param

from codefend.models.codec import ImageFormat, data_url
from codefend.service.decode.chat import Chat, ChatLimits, open_chat
from codefend.service.errors import CodefendError
from codefend.service.protocols.fields import Choice, FieldKind, FieldRules
from codefend.service.protocols.responses import RESPONSES
from tests.service.decode.test_table import all_places, hints_of, lacking, object_types
from tests.service.pictures import png

LIMITS = ChatLimits(max_images=8, max_answer_tokens=100, max_choices=1)
ITEMS = RESPONSES.table.fields["input"].place
TOOLS = RESPONSES.table.fields["tools"].place
PICTURE = data_url(png(8, 8), ImageFormat.PNG)
IMAGE = {"type": "input_image", "image_url": PICTURE, "detail": "auto"}
TEXT = {"type": "input_text", "text": "what is it?"}

# Known, and closed: what the upstream's own tools are and did.
CLOSED_ITEMS = {
    "file_search_call",
    "web_search_call",
    "image_generation_call",
    "code_interpreter_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "program",
    "program_output",
}
CLOSED_TOOLS = {
    "file_search",
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "mcp",
    "code_interpreter",
    "programmatic_tool_calling",
    "image_generation",
}
CLOSED_PARTS = {"input_file", "container_auto", "container_reference", "mcp", *CLOSED_TOOLS}


def opened(*, allowed=(), **fields):
    """The request in parts."""
    body = json.dumps({"model": "m", "input": "hi", **fields}).encode()
    return open_chat(body, RESPONSES, LIMITS, None, FieldRules(allowed=allowed))


def document_of(chat):
    return json.loads(b"GAP".join(chat.fragments))


def refused(**fields):
    with pytest.raises(CodefendError) as raised:
        opened(**fields)
    return raised.value


def types_of(union):
    """The object types of a union, by the value of their `type`."""
    for kind in object_types(union):
        hints = hints_of(kind)
        for value in re.findall(r"'([a-z_0-9]+)'", str(hints.get("type", ""))):
            yield value, kind


def test_the_table_has_every_field_of_openais_requests():
    base = response_create_params.ResponseCreateParamsBase
    named = set(lacking(base, RESPONSES.table))
    assert {name for name in named if "(" not in name} == set()
    types = {name.rpartition("(")[2].rstrip(")") for name in named}
    assert types <= CLOSED_ITEMS | CLOSED_PARTS


def test_the_table_has_every_item_of_the_client_or_closes_it():
    types = dict(types_of(response_input_item_param.ResponseInputItemParam))
    assert len(types) > 25
    assert {name for name in types if ITEMS.find(name) is None} == CLOSED_ITEMS
    for name, kind in types.items():
        place = ITEMS.find(name)
        missing = set(lacking(kind, place, name)) if place is not None else set()
        assert {m for m in missing if m.rpartition("(")[2].rstrip(")") not in CLOSED_PARTS} == set()


def test_the_table_has_every_tool_of_the_client_or_closes_it():
    types = dict(types_of(tool_param.ToolParam))
    assert {name for name in types if TOOLS.find(name) is None} == CLOSED_TOOLS & types.keys()
    assert types.keys() >= CLOSED_TOOLS


def test_the_items_of_answers_can_be_sent_back():
    for name, kind in types_of(openai.types.responses.ResponseOutputItem):
        place = ITEMS.find(name)
        if place is not None:
            missing = set(lacking(kind, place, name))
            types = {m.rpartition("(")[2].rstrip(")") for m in missing}
            assert types <= CLOSED_PARTS, name


def test_rows_are_of_the_kind_that_their_names_say():
    for path, place in all_places(RESPONSES.table):
        for name, field in place.fields.items():
            here = f"{path}.{name}"
            assert field.kind is FieldKind.CLOSED or not field.reason, here
            if field.kind in {FieldKind.OBJECT, FieldKind.CONTENT}:
                assert field.place is not None, here
            if isinstance(field.place, Choice):
                assert field.place.places, here


PLACES = {
    "a message": [{"type": "message", "role": "user", "content": [TEXT, IMAGE]}],
    "a message without a type": [{"role": "user", "content": [TEXT, IMAGE]}],
    "a system's": [{"role": "system", "content": [IMAGE]}],
    "an assistant's": [{"role": "assistant", "content": [IMAGE]}],
    "a function's output": [{"type": "function_call_output", "call_id": "c", "output": [IMAGE]}],
    "a tool's output": [{"type": "custom_tool_call_output", "call_id": "c", "output": [IMAGE]}],
    "a screenshot": [
        {
            "type": "computer_call_output",
            "call_id": "c",
            "output": {"type": "computer_screenshot", "image_url": PICTURE},
            "acknowledged_safety_checks": [{"id": "a", "code": "b", "message": "see https://c"}],
        }
    ],
    "bare base64": [
        {"role": "user", "content": [IMAGE | {"image_url": PICTURE.partition(",")[2]}]}
    ],
}


@pytest.mark.parametrize("place", PLACES)
def test_an_image_is_taken_out_of_every_place(place):
    chat = opened(input=PLACES[place])
    assert len(chat.images) == 1
    assert PICTURE not in json.dumps(document_of(chat))
    assert chat.images[0].param.startswith("input[0].")


def test_instructions_may_be_items_with_images():
    chat = opened(instructions=[{"role": "system", "content": [IMAGE]}])
    assert [image.param for image in chat.images] == ["instructions[0].content[0].image_url"]


PASSING = {
    "a text": {},
    "an agent's history": {
        "input": [
            {"role": "user", "content": "look"},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "t"}],
                "encrypted_content": "gAAAA" * 99,
                "content": None,
                "status": None,
            },
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "c",
                "name": "f",
                "status": "completed",
                "arguments": '{"url": "https://a.b/c.png"}',
            },
            {"type": "function_call_output", "call_id": "c", "output": "see https://a.b/c.png"},
            {
                "type": "message",
                "id": "msg_" + "a1" * 200,
                "role": "assistant",
                "status": "completed",
                "phase": "final_answer",
                "content": [
                    {
                        "type": "output_text",
                        "text": "a",
                        "logprobs": [],
                        "annotations": [
                            {
                                "type": "url_citation",
                                "start_index": 0,
                                "end_index": 1,
                                "title": "t",
                                "url": "https://a.b",
                            }
                        ],
                    },
                    {"type": "refusal", "refusal": "no"},
                ],
            },
        ],
        "instructions": "be brief",
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {
            "format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True},
            "verbosity": "low",
        },
        "tools": [
            {"type": "function", "name": "f", "parameters": {}, "strict": True, "description": "d"},
            {
                "type": "custom",
                "name": "g",
                "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
            },
            {
                "type": "namespace",
                "name": "n",
                "description": "d",
                "tools": [{"type": "function", "name": "h"}],
            },
            {"type": "local_shell"},
            {"type": "apply_patch"},
            {"type": "tool_search", "execution": "client"},
            {
                "type": "shell",
                "environment": {
                    "type": "local",
                    "skills": [{"name": "s", "description": "d", "path": "/s"}],
                },
            },
            {
                "type": "computer_use_preview",
                "display_width": 9,
                "display_height": 9,
                "environment": "mac",
            },
        ],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "f"}],
        },
        "metadata": {"a": "b"},
        "store": False,
        "background": False,
        "previous_response_id": None,
        "prompt_cache_options": {"mode": "implicit", "comparison_response_id": None},
    },
    "shells and patches": {
        "input": [
            {
                "type": "local_shell_call",
                "id": "l",
                "call_id": "c",
                "status": "completed",
                "action": {
                    "type": "exec",
                    "command": ["curl", "https://a.b"],
                    "env": {"A": "b"},
                    "working_directory": "/x",
                },
            },
            {"type": "local_shell_call_output", "id": "c", "output": "x" * 999},
            {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"], "timeout_ms": 9}},
            {
                "type": "shell_call_output",
                "call_id": "c",
                "output": [
                    {"stdout": "x" * 999, "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}
                ],
            },
            {
                "type": "apply_patch_call",
                "call_id": "c",
                "status": "completed",
                "operation": {"type": "update_file", "path": "/a", "diff": "+" * 99},
            },
            {
                "type": "apply_patch_call_output",
                "call_id": "c",
                "status": "completed",
                "output": "done",
            },
            {
                "type": "computer_call",
                "id": "i",
                "call_id": "c",
                "status": "completed",
                "pending_safety_checks": [],
                "action": {"type": "type", "text": "https://a.b"},
            },
            {"type": "compaction", "encrypted_content": "gAAAA" * 99},
        ]
    },
}


@pytest.mark.parametrize("name", PASSING)
def test_what_clients_send_passes_bit_for_bit(name):
    fields = {"model": "m", "input": "hi", **PASSING[name]}
    chat = opened(**fields)
    assert document_of(chat) == fields
    assert chat.references == ()


def user(*content):
    return [{"role": "user", "content": list(content)}]


REFUSED = {
    "web search": ({"tools": [{"type": "web_search"}]}, "tools.web_search"),
    "an MCP server": ({"tools": [{"type": "mcp", "server_url": "https://a.b"}]}, "tools.mcp"),
    "a tool of a namespace": (
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}]},
        "tools.tools.mcp",
    ),
    "a shell elsewhere": (
        {
            "tools": [
                {"type": "shell", "environment": {"type": "container_auto", "file_ids": ["f"]}}
            ]
        },
        "tools.environment.container_auto",
    ),
    "tools among the items": (
        {"input": [{"type": "additional_tools", "role": "developer", "tools": [{"type": "mcp"}]}]},
        "input.tools.mcp",
    ),
    "the choice of such a tool": ({"tool_choice": {"type": "mcp"}}, "tool_choice.mcp"),
    "such a tool among several": (
        {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "image_generation"}]}},
        "tool_choice.tools.image_generation",
    ),
    "a choice that is no word for one": ({"tool_choice": "web_search"}, "tool_choice"),
    "a generated image": (
        {"input": [{"type": "image_generation_call", "id": "i", "result": "QUJD"}]},
        "input.image_generation_call",
    ),
    "a generated image by its id": (
        {"input": [{"type": "image_generation_call", "id": "i"}]},
        "input.image_generation_call",
    ),
    "what a container drew": (
        {
            "input": [
                {"type": "code_interpreter_call", "outputs": [{"type": "image", "url": PICTURE}]}
            ]
        },
        "input.code_interpreter_call",
    ),
    "a PDF": (
        {"input": user({"type": "input_file", "file_data": PICTURE})},
        "input.content.input_file",
    ),
    "a file by its id": (
        {"input": user({"type": "input_image", "file_id": "f"})},
        "input.content.file_id",
    ),
    "a screenshot by its id": (
        {
            "input": [
                {
                    "type": "computer_call_output",
                    "output": {"type": "computer_screenshot", "file_id": "f"},
                }
            ]
        },
        "input.output.file_id",
    ),
    "a stored prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    "an answer in the background": ({"background": True}, "background"),
    "an answer's id": ({"request_id": "resp_of_another"}, "request_id"),
    "another conversation": (
        {"previous_input_messages": [{"role": "user"}]},
        "previous_input_messages",
    ),
    "an unknown field": (
        {"input": [{"role": "user", "content": "x", "pictures": ["QUJD"]}]},
        "input.pictures",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_bring_in_a_picture_is_refused_and_opened_by_its_name(name):
    fields, setting = REFUSED[name]
    refusal = refused(**fields)
    assert f"CODEFEND_ALLOWED_FIELDS={setting}" in refusal.public_message
    assert refusal.status == 400
    if name not in {"a file by its id", "a screenshot by its id"}:  # an image lacks its URL, too
        assert opened(allowed=(setting,), **fields).images == ()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"input": user({"type": "input_image", "image_url": "https://a.b/c.png"})},
            "input[0].content[0].image_url",
        ),
        (
            {"input": user({"type": "input_image", "image_url": {"url": PICTURE}})},
            "input[0].content[0].image_url",
        ),
        ({"input": user({"type": "input_image"})}, "input[0].content[0].image_url"),
        (
            {"input": user({"type": "image_url", "image_url": {"url": PICTURE}})},
            "input[0].content[0].type",
        ),
        (
            {"input": user({"type": "input_text", "text": "a", "image_url": PICTURE})},
            "input[0].content[0].image_url",
        ),
        (
            {"input": [{"type": "function_call_output", "output": {"image": PICTURE}}]},
            "input[0].output",
        ),
        (
            {"input": [{"type": "reasoning", "encrypted_content": {"type": "input_image"}}]},
            "input[0].encrypted_content",
        ),
        ({"input": [{"id": "msg_1"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": 7}]}, "input[0].id"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"previous_response_id": ["resp_1"]}, "previous_response_id"),
        ({"conversation": {"id": "a", "more": 1}}, "conversation"),
        ({"input": f"![]({PICTURE})"}, "input"),
        ({"instructions": f"![]({PICTURE})"}, "instructions"),
        ({"input": []}, "input"),
        ({"input": {"role": "user"}}, "input"),
        ({"input": None}, "input"),
        ({"stream": 1}, "stream"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_other_shapes_are_refused_with_their_place(fields, param):
    assert refused(**fields).param == param


def test_a_longer_answer_is_asked_for_at_the_longest():
    assert document_of(opened(max_output_tokens=5000))["max_output_tokens"] == 100
    assert "max_output_tokens" not in document_of(opened(max_output_tokens=-1))


def test_the_documentation_names_every_field_of_a_request():
    text = (Path(__file__).parents[3] / "docs" / "upstreams.md").read_text()
    assert [name for name in RESPONSES.table.fields if f"`{name}`" not in text] == []


def test_ids_of_what_the_upstream_keeps_are_found_and_can_be_opened():
    fields = {
        "input": [{"type": "item_reference", "id": "msg_1"}, {"type": "message", "role": "user"}],
        "previous_response_id": "resp_1",
        "conversation": {"id": "conv_1"},
        "prompt_cache_options": {"comparison_response_id": "resp_2"},
    }
    chat = opened(**fields)
    assert Chat.unpack(*chat.pack()) == chat
    found = {reference.id: reference.dotted for reference in chat.references}
    assert found == {
        "msg_1": "input.id",
        "resp_1": "previous_response_id",
        "conv_1": "conversation",
        "resp_2": "prompt_cache_options.comparison_response_id",
    }
    assert opened(allowed=tuple(found.values()), **fields).references == ()
