"""What a test needs that is not installed everywhere; looked for, never imported."""

import importlib.util

import pytest

# Imported by itself, it would report so to its makers: only `codefend.models.converted` may.
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
