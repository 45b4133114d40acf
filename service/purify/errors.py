"""What is answered where nothing is purified, because the service was told so."""

from codefend.service.errors import CodefendError

__all__ = ["PurificationOff"]


class PurificationOff(CodefendError):
    """A purified image was asked for, and CODEFEND_MODE is off."""

    status = 503
    code = "purification_off"
    message = "Purification is switched off, so there is no purified image."

    def headers(self) -> dict[str, str]:
        """Tells OpenAI's clients, which send a 503 again by themselves, that this is of no use."""
        return {"X-Should-Retry": "false"}
