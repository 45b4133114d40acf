#!/bin/sh
# Ends a build: removes what serving never opens, then lists what is left as CycloneDX.
#   finish.sh ENVIRONMENT
set -eu
python deploy/image/prune.py "$1"
/opt/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
    --output-file /tmp/packages.json "$1/bin/python"
/opt/sbom/bin/python deploy/image/sbom.py /tmp/packages.json \
    "$1"/lib/python3*/site-packages/codefend/models/weights > "$1/sbom.cdx.json"
