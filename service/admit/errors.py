"""What is answered to a key that is right, and yet may not do what it asks for."""

from codefend.service.errors import RequestRefused

__all__ = ["EndpointForbidden"]


class EndpointForbidden(RequestRefused):
    """The key's policy names endpoints, and this is none of them."""

    status = 403
    code = "endpoint_forbidden"
    message = "This API key may not use this endpoint."
