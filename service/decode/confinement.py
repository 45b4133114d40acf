"""Limits on the process that reads strangers' bytes: memory, processor time, files."""

import resource

__all__ = ["allow_cpu_time", "confine"]


def confine(memory_bytes: int) -> None:
    """Gives up, for good, what decoding does not need.

    Args:
        memory_bytes: Address space the process may have.
    """
    # Shared memory is mapped, not written as a file: a limit of zero bytes does not touch it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def allow_cpu_time(seconds: int) -> None:
    """Sets the processor time that the process may still spend; beyond it the system kills it.

    Args:
        seconds: Counted from now, whole seconds.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent_s = int(usage.ru_utime + usage.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent_s + seconds + 1, hard))
