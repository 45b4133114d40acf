import os

import pytest

from codefend.service.forward.embedded import _environment
from codefend.service.settings import load_settings


def test_the_embedded_model_starts_behind_an_address_that_needs_a_key(monkeypatch):
    monkeypatch.setenv("CODEFEND_HOST", "0.0.0.0")
    monkeypatch.setenv("CODEFEND_API_KEYS", "a-key")
    monkeypatch.setenv("CODEFEND_LOG_LEVEL", "warning")
    load_settings()  # takes the key out of the environment, as the service does at its start
    with pytest.raises(ValueError, match="without an API key"):
        load_settings()
    for name in set(os.environ) - set(_environment()):
        monkeypatch.delenv(name)
    assert load_settings().log_level == "warning"
