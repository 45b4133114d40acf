"""Cuts what arrives of a stream into lines, however the network has cut it, at bounded cost."""

__all__ = ["MAX_LINE_BYTES", "LineCutter"]

MAX_LINE_BYTES = 1 << 22


class LineCutter:
    """Takes bytes, and gives back the lines that are whole by now."""

    def __init__(self) -> None:
        # Joined only once a line is whole: a line that comes byte by byte would cost its square.
        self._pieces: list[bytes] = []
        self._num_held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Takes bytes; returns lines, each with its end.

        Raises:
            ValueError: A line has no end, or to some readers more than one.
        """
        head, newline, tail = chunk.rpartition(b"\n")
        self._num_held += len(chunk) if not newline else 0
        if self._num_held > MAX_LINE_BYTES or len(tail) > MAX_LINE_BYTES:
            msg = "a line without an end"
            raise ValueError(msg)
        if not newline:
            self._pieces.append(chunk)
            return []
        whole = b"".join((*self._pieces, head, newline))
        self._pieces, self._num_held = [tail] if tail else [], len(tail)
        return [_one_line(line) + b"\n" for line in whole[:-1].split(b"\n")]

    def rest(self) -> bytes:
        """What has come of a line without an end; ValueError as in `feed`."""
        return _one_line(b"".join(self._pieces))


def _one_line(line: bytes) -> bytes:
    # Alone it ends a line of server-sent events, too: behind it an event would pass unread.
    if b"\r" in line.removesuffix(b"\r"):
        msg = "a carriage return within a line"
        raise ValueError(msg)
    return line
