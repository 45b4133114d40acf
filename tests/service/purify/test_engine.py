import pytest

from codefend.service.purify.engine import resolve_devices


@pytest.mark.parametrize(
    ("nodes", "devices"),
    [
        ([], ["auto"]),
        (["nvidia0", "nvidiactl"], ["auto"]),
        (["nvidia0", "nvidia1", "nvidia-uvm"], ["cuda:0", "cuda:1"]),
    ],
)
def test_auto_takes_every_gpu(tmp_path, nodes, devices):
    for node in nodes:
        (tmp_path / node).touch()
    assert resolve_devices(("auto",), tmp_path) == devices
    assert resolve_devices(("cpu", "cuda:1"), tmp_path) == ["cpu", "cuda:1"]
