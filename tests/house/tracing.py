"""Which modules of the API process one warm request runs through, and how often it changes them."""

import json
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tests.house.cases import VQA, as_form
from tests.house.running import run_service
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import png

NUM_WARM = 5
NUM_TRACED = 5
SETTLING_S = 0.3


def trace():
    """Traces several equal requests; returns the one of them with the fewest calls.

    Others may have a heartbeat of a worker, or another thing of the background, in their time.
    """
    request = as_form(png(), question="what is it?")
    with run_upstream() as upstream, tempfile.TemporaryDirectory() as folder:
        file, spans = Path(folder) / "calls.json", []
        command = ("-m", "tests.house.traced", str(file))
        with run_service({"UPSTREAM_URL": upstream.url}, folder, command=command) as service:
            for number in range(NUM_WARM + NUM_TRACED):
                time.sleep(SETTLING_S)
                begins_s = time.monotonic()
                assert service.client.post(VQA, **request).status_code == 200
                time.sleep(SETTLING_S)
                if number >= NUM_WARM:
                    spans.append((begins_s, time.monotonic()))
        entered = json.loads(file.read_text())
    requests = [[call for call in entered if begin <= call[0] <= end] for begin, end in spans]
    return min(requests, key=len)


def summarise(entered):
    """Modules, calls and hops, and the calls of each module.

    A hop is two calls in a row that are of different modules. A coroutine counts once: going on
    after it has waited is no call of its own.
    """
    modules = [line.partition(":")[0] for _, line, is_first in entered if is_first]
    return {
        "modules": len(set(modules)),
        "modules of service": len({name for name in modules if name.startswith("service/")}),
        "calls": len(modules),
        "hops": sum(one != other for one, other in pairwise(modules)),
        "resumptions": len(entered) - len(modules),
        "calls by module": dict(Counter(modules).most_common()),
    }
