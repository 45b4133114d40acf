"""Ray Serve: the configuration is one, and a local cluster loses nothing that it has accepted."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml

from tests.documentation import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="no ray"),
]
CONFIGURATION = ROOT / "deploy/ray/serve.yaml"
# Ray is not made for a test's process, where every warning is an error.
CHECK = """
import json, sys, yaml
from ray.serve.schema import ServeDeploySchema
from codefend.service.cluster import ClusterOptions, build
config = yaml.safe_load(open(sys.argv[1]))
found = ServeDeploySchema.model_validate(config).applications[0]
app = build(ClusterOptions(**found.args))
print(json.dumps([found.import_path, sorted(d.name for d in found.deployments)]))
"""


def run(*command, timeout_s):
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return [json.loads(line) for line in found.stdout.splitlines() if line.startswith(("{", "["))]


def test_ray_takes_the_configuration():
    (found,) = run("-c", CHECK, str(CONFIGURATION), timeout_s=120)
    assert found == ["codefend.service.cluster:build", ["Guard", "Purifier"]]
    (application,) = yaml.safe_load(CONFIGURATION.read_text())["applications"]
    guard, purifier = application["deployments"]
    most = purifier["autoscaling_config"]["max_replicas"]
    assert application["args"]["batches_at_once"] >= most / guard["num_replicas"] + 1
    assert purifier["max_ongoing_requests"] == 1
    assert guard["max_queued_requests"] == -1


@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_cluster_loses_no_request_when_a_purifier_dies_or_all_is_replaced():
    rows = {row["what"]: row for row in run("-m", "tests.sieges.cluster", "3", "1", timeout_s=850)}
    assert set(rows) == {"two purifiers", "a purifier is killed", "all is redeployed"}
    for row in rows.values():
        assert row["lost"] == 0, row
        assert row["wrong"] == []
        assert row["answers"]["200"] >= 1
    assert rows["all is redeployed"]["all_are_new"]
