"""Says what the defence did, as much of it as may be disclosed."""

from models.prompts.templates import Template
from service.purify.engine import EngineFacts
from service.schemas import Defense, NamedVersion
from service.settings import Disclosure

__all__ = ["describe_defense"]


def describe_defense(
    engine: EngineFacts,
    template: Template | None,
    disclose: Disclosure,
    *,
    bypassed: bool,
    cached: bool,
) -> Defense:
    """Builds the `defense` object of a response.

    Args:
        engine: The purifier.
        template: The prompt template; None where no model is asked.
        disclose: `minimal` gives names and nothing measured, lest it serve as an oracle.
        bypassed: Whether the model saw the image unpurified.
        cached: Whether the purified image is a replay.
    """
    full = disclose is Disclosure.FULL
    return Defense(
        purifier=NamedVersion(name=engine.name, version=engine.version),
        steps=engine.steps if full else None,
        noise_level=engine.noise_level if full else None,
        prompt_template=(
            None if template is None else NamedVersion(name=template.name, version=template.version)
        ),
        suspicion=None,
        flagged=None,
        bypassed=bypassed,
        cached=cached,
    )
