"""Serves as `codefend serve` does, and writes which functions of ours its event loop entered.

Run as `python -m tests.house.traced FILE`; the file is written when the service ends.
"""

import dis
import json
import sys
import time
from importlib import import_module
from pathlib import Path

from tests.house.running import PACKAGE

ROOT = Path(__file__).parents[2]
ROOMS = ("service", "models")


def name_of(file, known={}):  # noqa: B006 - a cache
    """The module's path below the root; None for one that is not ours."""
    if file not in known:
        path = Path(file).resolve()
        inside = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS
        known[file] = str(path.relative_to(ROOT)) if inside else None
    return known[file]


def start_of(code, known={}):  # noqa: B006 - a cache
    """Where a function begins; what waits goes on from further behind."""
    if code not in known:
        steps = dis.get_instructions(code)
        known[code] = next(step.offset for step in steps if step.opname == "RESUME")
    return known[code]


def main(file):
    entered = []

    def note(frame, event, _):
        if event == "call":
            code = frame.f_code
            module = name_of(code.co_filename)
            if module is not None:
                # Comprehensions are part of the function that they stand in.
                is_inner = code.co_name.startswith("<") and code.co_name != "<lambda>"
                is_first = frame.f_lasti <= start_of(code)
                if not is_inner:
                    line = f"{module}:{code.co_firstlineno}:{code.co_qualname}"
                    entered.append((time.monotonic(), line, is_first))

    run = import_module(f"{PACKAGE}.cli").main
    sys.argv = ["codefend", "serve"]
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
        Path(file).write_text(json.dumps(entered))


if __name__ == "__main__":
    main(sys.argv[1])
