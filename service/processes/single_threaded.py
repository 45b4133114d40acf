"""A child whose libraries start no threads of their own, so that it can be confined as a whole."""

import os
import threading

from service.processes.child import Child

__all__ = ["SingleThreadedChild"]

# Read by numpy's linear algebra when it is loaded, which is before any code of the child's runs.
_NUM_THREADS = "OPENBLAS_NUM_THREADS"
_launching = threading.Lock()


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
