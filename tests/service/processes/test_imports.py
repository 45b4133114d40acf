"""What a process loads before it can work: some are started at every start, and after every end."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

HEAVY = ("fastapi", "httpx", "openvino", "pydantic", "torch", "uvicorn")


@pytest.mark.parametrize(
    "module",
    [
        "codefend.service.decode.process",
        "codefend.service.encode.stage",
        "codefend.service.purify.worker",
    ],
)
def test_children_load_little(module):
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({HEAVY})))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []


def test_the_service_loads_no_torch():
    code = "import sys, codefend.service.server; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False"]
