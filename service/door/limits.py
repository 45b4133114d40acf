"""How much a connection, a head and an unread answer may cost, and how many files there are."""

import resource
from dataclasses import dataclass, replace

__all__ = ["DoorLimits", "fit_connections", "raise_open_files_limit"]

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20
# Listening sockets, the event loop's own, logs, what libraries keep open, and connections that are
# closed in a moment.
FILES_OF_THE_PROCESS = 48
# A pipe, a sentinel and standard streams; twice, as a new process starts before the old one is out.
FILES_PER_CHILD = 8
# A connection to the upstream, and the shared memory of a picture.
FILES_PER_REQUEST = 2
FEWEST_CONNECTIONS = 8
# More than anybody needs here; some systems allow a milliard.
MOST_FILES = 1 << 16


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """The bounds of one listening address.

    Attributes:
        max_connections: Connections at once; beyond them the longest without a request makes room.
        num_probe_connections: Those beyond that, for probes alone, where nobody can make room.
        backlog: Connections that the kernel holds until they are accepted; libuv accepts one at a
            time, so that few are open beyond the cap for a moment.
        max_head_bytes: A request's head: its line, and all fields.
        max_target_bytes: The request line's target (RFC 9112, section 3, asks for 8000 at least).
        max_fields: Header fields, and trailers.
        head_timeout_s: Time for a head, from its first byte or from the connection's start.
        probe_head_timeout_s: The same, beyond the cap.
        keep_alive_s: Time that an idle connection stays open.
        max_framing_bytes: Chunk sizes, extensions and trailers of a chunked body, beside an
            eighth of the body itself.
        max_pipelined: Requests that wait on one connection behind one that is answered.
        linger_s: Time for a client to read an answer that came before its body was whole.
        max_lingering_bytes: Bytes of that body that are read, and dropped, meanwhile.
        unread_timeout_s: Time for a client to take the next piece of its answer.
    """

    max_connections: int = 256
    num_probe_connections: int = 16
    backlog: int = 1024
    max_head_bytes: int = 64 * KIBIBYTE
    max_target_bytes: int = 16 * KIBIBYTE
    max_fields: int = 100
    head_timeout_s: float = 10.0
    probe_head_timeout_s: float = 2.0
    keep_alive_s: int = 30
    max_framing_bytes: int = 16 * KIBIBYTE
    max_pipelined: int = 8
    linger_s: float = 2.0
    max_lingering_bytes: int = 64 * MEBIBYTE
    unread_timeout_s: float = 30.0


def raise_open_files_limit() -> int:
    """Raises the process's soft limit of open files as far as it may; returns what holds then.

    Shells keep it at 1024 for the sake of select(2), which nobody here calls.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= highest:
        return highest
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    return highest


def fit_connections(
    limits: DoorLimits, *, open_files: int, num_children: int, max_requests: int
) -> DoorLimits:
    """Lowers the cap on connections so that files are left for everything else.

    Args:
        limits: As they are wished for.
        open_files: The limit of this process.
        num_children: Processes of its own.
        max_requests: Requests at once; each needs more files than its client's connection.
    """
    reserve = FILES_OF_THE_PROCESS + FILES_PER_CHILD * num_children + limits.num_probe_connections
    left = open_files - reserve
    # Only a connection can have a request: few connections need few of the files of requests.
    fitting = max(left // (1 + FILES_PER_REQUEST), left - FILES_PER_REQUEST * max_requests)
    fitting = max(FEWEST_CONNECTIONS, fitting)
    return replace(limits, max_connections=min(limits.max_connections, fitting))
