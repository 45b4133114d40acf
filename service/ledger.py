"""Which ids of what the upstream keeps were handed out, and to which key.

All callers share the upstream's key, so an id could name another caller's conversation, or one
that went round this service, with pictures that nobody has purified. An id passes only if this
process gave it to the same key: it is that of an answer, or of an item of one, to a request whose
images were purified. A restart forgets all of them, and another replica knows none.
"""

import hashlib
import time
from collections.abc import Callable, Iterable

from cachetools import TTLCache

from codefend.service.context import RequestContext
from codefend.service.decode.chat import Chat
from codefend.service.errors import UnknownState
from codefend.service.policy import Mode

__all__ = ["StateLedger"]

# OpenAI forgets them, too.
LIFETIME_S = 30 * 24 * 3600.0
DIGEST_BYTES = 16


class StateLedger:
    """Remembers ids for each caller, the newest ones; belongs to the event loop."""

    def __init__(self, max_ids: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins with none.

        Args:
            max_ids: For each caller; 0 remembers none.
            clock: Seconds.
        """
        self._max_ids = max_ids
        self._clock = clock
        self._known: dict[str, TTLCache[bytes, None]] = {}

    def remember(self, context: RequestContext, ids: Iterable[str]) -> None:
        """Takes what an answer hands out, unless nothing was enforced for its request."""
        if context.policy.mode is not Mode.ENFORCE or not self._max_ids:
            return
        for each in ids:
            known = self._known.get(context.caller)
            if known is None:
                known = TTLCache(self._max_ids, LIFETIME_S, self._clock)
                self._known[context.caller] = known
            known[_digest(each)] = None

    def check(self, context: RequestContext, chat: Chat) -> None:
        """Looks at the ids that a request refers to.

        Raises:
            UnknownState: One of them was never given to this caller, or too long ago.
        """
        known = self._known.get(context.caller, ())
        for reference in chat.references:
            if _digest(reference.id) in known:
                continue
            if context.policy.mode is Mode.ENFORCE:
                msg = (
                    f"{reference.param} names nothing that this service has given to this key of "
                    "late. Send the conversation itself, or have the operator set "
                    f"CODEFEND_ALLOWED_FIELDS={reference.dotted} to pass any id."
                )
                raise UnknownState(msg, reference.param)
            chat.findings.note(UnknownState.code, reference.dotted)


def _digest(each: str) -> bytes:
    """So much of each id is kept, however long it is."""
    return hashlib.blake2b(each.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest()
