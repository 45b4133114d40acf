"""The HTTP contract, frozen: a change of it must be meant.

After a change that is meant: `python -m tests.service.test_openapi`.
"""

import json
from pathlib import Path

from codefend.service.app import create_app
from tests.service.running import make_settings

SNAPSHOT = Path(__file__).with_name("openapi.json")


def contract():
    document = create_app(make_settings()).openapi()
    del document["info"]["version"]
    return document


def test_the_contract_is_the_snapshot():
    assert contract() == json.loads(SNAPSHOT.read_text())


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(contract(), indent=1, sort_keys=True) + "\n")
