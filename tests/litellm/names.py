"""Runs in LiteLLM's own environment: prints, as JSON, the names that its types give to fields."""

import inspect
import json
import sys

import litellm
from litellm.types import utils
from litellm.types.llms import openai


def typed(name):
    return sorted(getattr(openai, name).__annotations__)


def names():
    """Names by place; where a place has several tables, the one that is meant is named."""
    parameters = inspect.signature(litellm.completion).parameters
    owned = {name for name in utils.all_litellm_params if isinstance(name, str)}
    request = {*parameters, *owned, *openai.ChatCompletionRequest.__annotations__}
    assistant = {*utils.Message.model_fields, *typed("ChatCompletionAssistantMessage")}
    block = "messages=assistant.thinking_blocks"
    return {
        "": sorted(request - {"kwargs", "self"}),
        "messages=assistant": sorted(assistant),
        f"{block}=thinking": typed("ChatCompletionThinkingBlock"),
        f"{block}=redacted_thinking": typed("ChatCompletionRedactedThinkingBlock"),
        "messages=assistant.content=text": typed("ChatCompletionTextObject"),
        "messages=assistant.content=image_url.image_url": typed("ChatCompletionImageUrlObject"),
        "tools": typed("ChatCompletionToolParam"),
        "tools.function": typed("ChatCompletionToolParamFunctionChunk"),
    }


if __name__ == "__main__":
    json.dump(names(), sys.stdout)
