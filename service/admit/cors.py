"""Browsers on other origins: their preflights are answered here, before admission.

Starlette's middleware does the work. What it would tell an origin that is not listed, such a
request never reaches it with: to everybody but the browsers of listed origins there is no CORS.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from codefend.service.admit.middleware import announces_body

__all__ = ["ListedOriginsMiddleware"]


class ListedOriginsMiddleware(CORSMiddleware):
    """Lets pages of the listed origins read answers, errors among them; others get nothing."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        """Takes the application behind it.

        Args:
            app: The application.
            origins: Whose pages may read answers, as browsers write them; `*` for any.
        """
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            # Whoever may ask may send any header: clients have dozens, and few are read here.
            allow_headers=("*",),
            # Without cookies, and there are none, this stands for all headers.
            expose_headers=("*",),
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection's request."""
        if scope["type"] == "http" and not self._is_listed(scope):
            fields = [field for field in scope["headers"] if field[0] != b"origin"]
            scope = {**scope, "headers": fields}
        await super().__call__(scope, receive, send)

    def _is_listed(self, scope: Scope) -> bool:
        origins = Headers(scope=scope).getlist("origin")
        # A preflight has no body: what has one goes to admission, which refuses it.
        is_bare = scope["method"] != "OPTIONS" or not announces_body(scope)
        return len(origins) == 1 and self.is_allowed_origin(origins[0]) and is_bare
