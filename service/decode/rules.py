"""What is set about the fields of a chat, and what was found in them and not refused."""

from dataclasses import dataclass, field

from codefend.service.policy import Mode, UnknownFields
from codefend.service.settings import Settings

__all__ = ["FieldRules", "Findings", "field_rules"]

_MOST_NAMES = 16
_LONGEST_SHOWN_PLACE = 128


@dataclass(frozen=True, slots=True)
class FieldRules:
    """What is set about fields.

    Attributes:
        is_enforced: Whether anything is refused; if not, it is only noted.
        drops_unknown: Whether unknown fields are taken out in place of a refusal.
        allowed: Places, dotted and without indices, that pass whatever they hold.
        text_images: What the upstream reads out of texts, by `TextImages`.
    """

    is_enforced: bool = True
    drops_unknown: bool = False
    allowed: tuple[str, ...] = ()
    text_images: tuple[str, ...] = ()


@dataclass(slots=True)
class Findings:
    """What would have been refused, or was taken out.

    Attributes:
        counts: How many, by the code of the refusal; `dropped` for what was taken out.
        names: The first places, without indices.
    """

    counts: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def note(self, verdict: str, place: str) -> None:
        """Counts one more."""
        self.counts[verdict] = self.counts.get(verdict, 0) + 1
        shown = place[:_LONGEST_SHOWN_PLACE]
        if len(self.names) < _MOST_NAMES and shown not in self.names:
            self.names.append(shown)


def field_rules(settings: Settings, mode: Mode) -> FieldRules:
    """Takes the rules out of the settings; only a policy that enforces refuses anything."""
    return FieldRules(
        is_enforced=mode is Mode.ENFORCE,
        drops_unknown=settings.unknown_fields is UnknownFields.DROP,
        allowed=settings.allowed_fields,
        text_images=settings.upstream_reads_text_images,
    )
