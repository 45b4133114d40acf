"""`python -m tests.sieges memory|kills|tenants|rollout`: longer than a test; prints JSON lines."""

import json
import sys

from tests.sieges import kills, memory, rollout, tenants

SIEGES = {"memory": memory.run, "kills": kills.run, "tenants": tenants.run, "rollout": rollout.run}

if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    arguments = [int(rest[0])] if rest else []
    if name == "tenants" and rest[1:]:
        arguments.append(rest[1:])
    for row in SIEGES[name](*arguments):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
