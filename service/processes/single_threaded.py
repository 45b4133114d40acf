"""How many threads the libraries of a process start, and how those wait for each other.

Confined processes have none but their own, so that they can be confined as a whole.
"""

import os
import threading

from codefend.service.processes.child import Child

__all__ = ["SingleThreadedChild", "bound_spinning"]

# Read by numpy's linear algebra when it is loaded, which is before any code of the child's runs.
_NUM_THREADS = "OPENBLAS_NUM_THREADS"
_launching = threading.Lock()
SPIN_COUNT = 10_000


class SingleThreadedChild(Child):
    """A child that inherits the wish for one thread; the service itself keeps its own."""

    def launch(self) -> None:
        """Starts the process and returns at once."""
        with _launching:
            before = os.environ.get(_NUM_THREADS)
            os.environ[_NUM_THREADS] = "1"
            try:
                super().launch()
            finally:
                if before is None:
                    del os.environ[_NUM_THREADS]
                else:
                    os.environ[_NUM_THREADS] = before


def bound_spinning() -> None:
    """Has threads wait for each other asleep after some ten microseconds of spinning.

    GNU OpenMP, which torch computes with on a CPU, spins for milliseconds. On an idle machine that
    gains nothing measurable; where others use the processors too, a decode process among them, a
    thread that spins keeps the very one from running that it waits for, and a batch takes twenty
    times as long. It reads these variables when it is loaded, which is with the engine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
