"""OpenTelemetry's names for what a span says, in one place: some of them are still in development.

`gen_ai.*` is as in open-telemetry/semantic-conventions-genai: its spans, and the guardrails that
its pull request 427 proposes (as of September 2026). What has no name there is called `codefend.*`.
"""

from collections.abc import Mapping
from typing import Any, Final

from codefend.service.policy import ImageVerdict

__all__ = ["Attributes", "guardrail_attributes", "request_attributes"]

OPERATION_NAME: Final = "gen_ai.operation.name"
GUARDRAIL_COMPONENT_NAME: Final = "gen_ai.guardrail.component.name"
GUARDRAIL_POLICY_ID: Final = "gen_ai.guardrail.policy.id"
GUARDRAIL_TARGET_TYPE: Final = "gen_ai.guardrail.target.type"
GUARDRAIL_VERDICT_TYPE: Final = "gen_ai.guardrail.verdict.type"
GUARDRAIL_RISK_SCORE: Final = "gen_ai.guardrail.risk.score"
SECURITY_CONTENT_MODIFIED: Final = "gen_ai.security.content.modified"
SECURITY_INPUT_HASH: Final = "gen_ai.security.content.input.hash"
ERROR_TYPE: Final = "error.type"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
OUTCOME: Final = "codefend.outcome"
REQUEST_ID: Final = "codefend.request_id"
NUM_IMAGES: Final = "codefend.images"
CACHED: Final = "codefend.cached"

CHAT: Final = "chat"
RUN_GUARDRAIL: Final = "run_guardrail"
COMPONENT: Final = "codefend"
INPUT: Final = "input"
CHATS: Final = frozenset(
    {"/v1/caption", "/v1/vqa", "/v1/chat/completions", "/v1/responses", "/v1/messages"}
)

Attributes = dict[str, str | int | float | bool]


def request_attributes(
    route: str, status: int, outcome: str, request_id: str, num_images: int
) -> Attributes:
    """What the span of a request says.

    Args:
        route: Its path, without what the caller chose of it.
        status: Of the answer; 0 where there was none.
        outcome: `ok`, or the code of the error.
        request_id: As the log has it.
        num_images: How many images came with it.
    """
    attributes: Attributes = {
        HTTP_ROUTE: route,
        HTTP_STATUS: status,
        OUTCOME: outcome,
        REQUEST_ID: request_id,
        NUM_IMAGES: num_images,
    }
    if route in CHATS:
        attributes[OPERATION_NAME] = CHAT
    if outcome != "ok":
        attributes[ERROR_TYPE] = outcome
    return attributes


def guardrail_attributes(facts: Mapping[str, Any], policy: str, outcome: str) -> Attributes:
    """What the span of one image's purification says.

    Args:
        facts: The image's entry in the audit.
        policy: The name of the policy that held.
        outcome: Of the request; where there is no verdict, it says why.
    """
    attributes: Attributes = {
        OPERATION_NAME: RUN_GUARDRAIL,
        GUARDRAIL_COMPONENT_NAME: COMPONENT,
        GUARDRAIL_POLICY_ID: policy,
        GUARDRAIL_TARGET_TYPE: INPUT,
    }
    verdict = facts.get("verdict")
    if verdict is None:
        attributes[ERROR_TYPE] = outcome
    else:
        attributes[GUARDRAIL_VERDICT_TYPE] = str(verdict)
        attributes[SECURITY_CONTENT_MODIFIED] = verdict == ImageVerdict.MODIFY
    if facts.get("suspicion") is not None:
        attributes[GUARDRAIL_RISK_SCORE] = facts["suspicion"]
    if "sha256" in facts:
        attributes[SECURITY_INPUT_HASH] = facts["sha256"]
    if facts.get("cached"):
        attributes[CACHED] = True
    return attributes
