"""CoDefend: purifies adversarial images in the request path of a multimodal LLM.

The rooms lie at the top of the repository; the links here give them their names as packages
(``codefend.service``, ``codefend.models``, ``codefend.lab``), so that an installation adds one name
to an environment.

Without a server: ``codefend.Purifier.load()(image)``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codefend.service.offline import ImagePurifier as Purifier

__all__ = ["Purifier"]


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is asked for: the service's children need none of it."""
    if name == "Purifier":
        from codefend.service.offline import ImagePurifier

        return ImagePurifier
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
