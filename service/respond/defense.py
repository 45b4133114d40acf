"""Says what the defence did, as much of it as may be disclosed."""

from codefend.models.prompts.templates import Template
from codefend.service.policy import Disclosure
from codefend.service.schemas import Defense, NamedVersion
from codefend.service.stages import EngineFacts, Purified

__all__ = ["describe_defense"]


def describe_defense(
    engine: EngineFacts | None,
    template: Template | None,
    disclose: Disclosure,
    *,
    bypassed: bool,
    purified: Purified | None,
) -> Defense:
    """Builds the `defense` object of a response.

    Args:
        engine: The present purifier; None where there is none, as purification is off.
        template: The prompt template; None where no model is asked.
        disclose: `minimal` gives names and nothing measured, lest it serve as an oracle.
        bypassed: Whether the model saw the image unpurified.
        purified: What purification said of the image, and by which purifier; None if it failed.
    """
    if purified is not None:
        engine = purified.engine
    full = disclose is Disclosure.FULL
    return Defense(
        purifier=engine and NamedVersion(name=engine.name, version=engine.version),
        steps=engine.steps if full and engine else None,
        noise_level=engine.noise_level if full and engine else None,
        prompt_template=(
            None if template is None else NamedVersion(name=template.name, version=template.version)
        ),
        suspicion=purified.suspicion if full and purified else None,
        flagged=purified.flagged if full and purified else None,
        bypassed=bypassed,
        cached=purified is not None and purified.cached,
    )
