"""Who may come in: API keys, and for a keyless service, loopback host names."""

import hashlib
import hmac
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers

from service.errors import Unauthorized, WrongHost

__all__ = ["check_caller"]

ANYONE = ""
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


def check_caller(headers: Headers, keys: Sequence[SecretStr]) -> str:
    """Refuses a caller who may not come in, and names one who may.

    Args:
        headers: The request's headers.
        keys: The accepted keys; with none, only loopback is served.

    Returns:
        What tells this caller from others, and is no key; the same for all where there are none.

    Raises:
        Unauthorized: The key is missing or wrong.
        WrongHost: There are no keys, and the request names another host.
    """
    if not keys:
        # A web page can make its own name resolve to 127.0.0.1; it cannot forge the Host header.
        host = headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() not in LOOPBACK_HOSTS:
            raise WrongHost
        return ANYONE
    scheme, _, offered = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not _is_known(offered.strip(), keys):
        raise Unauthorized
    return hashlib.sha256(offered.strip().encode()).hexdigest()


def _is_known(offered: str, keys: Sequence[SecretStr]) -> bool:
    # Every key is compared, in constant time: the time taken tells nothing about any of them.
    matches = [
        hmac.compare_digest(offered.encode(), key.get_secret_value().encode()) for key in keys
    ]
    return any(matches)
