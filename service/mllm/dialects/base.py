"""What a dialect is: how one protocol asks the embedded model, and how its answer is told in it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from codefend.service.errors import InvalidField
from codefend.service.mllm.generation import Generation, Turn
from codefend.service.protocols.base import Protocol

__all__ = [
    "DEFAULT_ANSWER_TOKENS",
    "Dialect",
    "Exchange",
    "GenerationRequest",
    "read_fields",
    "unserved",
]

DEFAULT_ANSWER_TOKENS = 64
_ADVICE = "Leave it out, or have the operator set CODEFEND_UPSTREAM_URL to a model that can."

FieldsT = TypeVar("FieldsT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What is asked, in whatever protocol.

    Attributes:
        turns: The conversation.
        max_tokens: Longest answer.
        temperature: 0 takes the likeliest token each time.
        is_streamed: Whether the answer is told while it is made.
        is_counted_only: Whether no answer is made, because only the question's length is asked for.
    """

    turns: list[Turn]
    max_tokens: int
    temperature: float
    is_streamed: bool
    is_counted_only: bool = False


class Exchange(ABC):
    """One question, and the shape of its answer."""

    request: GenerationRequest

    @abstractmethod
    def whole(self, text: str, generation: Generation) -> dict[str, Any]:
        """The answer as one object.

        Args:
            text: What the model said.
            generation: How long it was, and why it ended.
        """

    @abstractmethod
    def begin(self) -> Iterator[str]:
        """The events before the first word."""

    @abstractmethod
    def piece(self, text: str) -> str:
        """The event of some more words."""

    @abstractmethod
    def end(self, text: str, generation: Generation) -> Iterator[str]:
        """The events after the last word; arguments as in `whole`."""

    @staticmethod
    def event(fields: dict[str, Any], name: str | None = None) -> str:
        """A server-sent event.

        Args:
            fields: Its data.
            name: Its name, in protocols that name them.
        """
        head = "" if name is None else f"event: {name}\n"
        return f"{head}data: {json.dumps(fields)}\n\n"


class Dialect(ABC):
    """One protocol that the embedded model is asked in.

    Attributes:
        protocol: Its path, and how it tells an error.
    """

    protocol: Protocol

    @abstractmethod
    def open(self, body: bytes, model: str) -> Exchange:
        """Reads a request.

        Args:
            body: JSON.
            model: What the model is called in answers.

        Raises:
            InvalidField: It asks for what the embedded model cannot do, or is none.
        """


def read_fields(model: type[FieldsT], body: bytes) -> FieldsT:
    """Reads a request under a pydantic model.

    Raises:
        InvalidField: It does not fit; names the first field that does not.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # A union's alternatives are named in the path; the fields are what a client knows.
        param = ".".join(str(name) for name in first["loc"][:3]) or "body"
        message = f"{param}: {first['msg'].rstrip('.')}."
        raise InvalidField(message, param) from error


def unserved(
    what: str, is_served: Callable[[Any], bool] = lambda value: not value
) -> AfterValidator:
    """Refuses values of a field that ask for what the embedded model cannot do.

    Args:
        what: What it cannot, as the end of "the embedded model ...".
        is_served: Says what passes; by default what is absent, false or empty.
    """

    def check(value: Any) -> Any:
        if not is_served(value):
            # Braces would be its own syntax.
            raise PydanticCustomError("unserved", f"the embedded model {what}. {_ADVICE}")  # type: ignore[arg-type]
        return value

    return AfterValidator(check)
