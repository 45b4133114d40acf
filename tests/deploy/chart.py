"""The chart for Kubernetes, rendered by Go's templates: `python -m tests.deploy.chart`.

That writes the settings into `values.schema.json` (`make docs` does as much), and with `manifests`
deploy/kubernetes too, for whoever has no Helm (`make manifests`, which needs Go).
"""

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
from enum import Enum
from functools import cache
from pathlib import Path
from typing import get_args, get_origin

import yaml

from codefend.service.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/codefend"
MANIFESTS = ROOT / "deploy/kubernetes"
SCHEMA = CHART / "values.schema.json"
# Set by the chart itself, from its other values.
CHART_S_OWN = {
    "host", "port", "metrics_port", "api_keys", "api_keys_file",
    "upstream_url", "upstream_key", "upstream_model",
}  # fmt: skip
# Debian's golang-go, golang-github-masterminds-sprig-dev and golang-k8s-sigs-yaml-dev.
GOPATH = Path("/usr/share/gocode")
HAS_GO = bool(shutil.which("go")) and (GOPATH / "src/github.com/Masterminds/sprig").is_dir()

# Name of a file to what it is, and to the values over the chart's own. The key is never in a file.
KEYS = {"keys": {"existingSecret": "codefend-keys"}}
RENDERED = {
    "embedded": (
        "To try it: a guard with its embedded model, which knows the project's own scenes alone.",
        [{"image": {"tag": "cpu"}, "replicas": 1}],
    ),
    "vllm": ("Guards on CPUs before vLLM, which the guards alone reach.", ["values-vllm.yaml"]),
    "vllm-gpu": (
        "Guards on GPUs before vLLM, which the guards alone reach.",
        ["values-gpu.yaml", "values-vllm.yaml"],
    ),
    "vllm-autoscaled": (
        "As many guards on CPUs as the queue asks for; needs Prometheus' operator and KEDA.",
        ["values-vllm.yaml", "values-watched.yaml"],
    ),
}
HEAD = """\
# {about}
# Rendered from deploy/helm/codefend by `make manifests`; do not edit it by hand. First, once:
#   kubectl create secret generic codefend-keys --from-literal=api-keys="$(openssl rand -hex 24)"
# and put the name of an image of yours in the place of `codefend:...` (`make image`, and push it).
"""


@cache
def renderer():
    """The renderer, compiled once in this process's life."""
    program = Path(tempfile.mkdtemp()) / "render"
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GOPATH)}
    command = ["go", "build", "-o", program, str(ROOT / "deploy/helm/render/main.go")]
    subprocess.run(command, env=environment, check=True)
    return program


def render(*overlays, name="codefend", namespace="default", is_notes=False):
    """The chart's manifests as text.

    Args:
        overlays: Over the chart's values: names of files in it, or values.
        name: Of the release.
        namespace: Where it is installed.
        is_notes: What Helm says at the end instead.

    Raises:
        subprocess.CalledProcessError: The chart refuses the values; `stderr` says why.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for number, overlay in enumerate(overlays):
            file = Path(scratch) / f"{number}.yaml"
            file.write_text(overlay if isinstance(overlay, str) else yaml.safe_dump(overlay))
            files.append(CHART / overlay if isinstance(overlay, str) else file)
        command = [renderer(), CHART, name, namespace, *files]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stderr if is_notes else done.stdout


def manifest(name):
    """The text of one file of deploy/kubernetes."""
    about, overlays = RENDERED[name]
    return HEAD.format(about=about) + render(*overlays, KEYS)


def schema():
    """The values' schema with the service's settings of today."""
    document = json.loads(SCHEMA.read_text())
    document["properties"]["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {"description": field.description} | values_of(field.annotation)
            for name, field in Settings.model_fields.items()
            if name not in CHART_S_OWN
        },
    }
    return json.dumps(document, indent=1) + "\n"


def values_of(annotation):
    """What may be set, in JSON's terms; the service itself checks the rest."""
    kinds = {*(get_args(annotation) or [annotation])} - {type(None)}
    if get_origin(annotation) is tuple:  # words with commas between them
        return {"type": "string"}
    for kind in kinds:
        if inspect.isclass(kind) and issubclass(kind, Enum):
            return {"enum": [word.value for word in kind]}
    if bool in kinds:
        return {"type": "boolean"}
    if kinds & {int, float}:
        return {"type": "integer" if kinds <= {int} else "number"}
    return {"type": "string"}


if __name__ == "__main__":
    SCHEMA.write_text(schema())
    if "manifests" in sys.argv:
        MANIFESTS.mkdir(exist_ok=True)
        for each in RENDERED:
            (MANIFESTS / f"{each}.yaml").write_text(manifest(each))
