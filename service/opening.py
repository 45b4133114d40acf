"""Whether requests can be served at all: what the door and the readiness probe ask."""

from math import ceil

from codefend.service.errors import NotReady
from codefend.service.forward.embedded import EmbeddedModel
from codefend.service.forward.upstream import Upstream
from codefend.service.purify.stage import PurifyStage

__all__ = ["Opening"]

# When to come back to a service that is not warm yet: how long that takes is not known then.
WARM_UP_S = 5.0
WITHOUT_MODEL = frozenset({"/v1/purify"})


class Opening:
    """Looks at the purifier and at the model, and changes neither."""

    def __init__(
        self, workers: PurifyStage | None, embedded: EmbeddedModel | None, upstream: Upstream
    ) -> None:
        """Takes what requests need.

        Args:
            workers: The purifier; None where purification is off.
            embedded: The embedded model; None in front of an upstream.
            upstream: Its client.
        """
        self._workers = workers
        self._embedded = embedded
        self._upstream = upstream

    @property
    def is_warm(self) -> bool:
        """Whether requests can be served; an upstream of others is their own concern."""
        purifies = self._workers is None or self._workers.is_warm
        return purifies and self._has_model

    def check(self, path: str) -> None:
        """Refuses what could not be served, now or after waiting.

        The purifier is not asked here: a request may have no picture, or one that is known.

        Raises:
            NotReady: There is no model yet.
            UpstreamDown: The path needs the model, and it is failing.
        """
        if path in WITHOUT_MODEL:
            return
        if not self._has_model:
            raise NotReady(retry_after_s=ceil(WARM_UP_S))
        self._upstream.check()

    @property
    def _has_model(self) -> bool:
        return self._embedded is None or self._embedded.is_warm
