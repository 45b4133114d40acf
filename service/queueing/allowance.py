"""How many pixels a batch may have, learned from batches that the device had no memory for."""

__all__ = ["PixelAllowance"]

# The memory may be lacking only for a while, as when a neighbour on the device needs it.
BATCHES_UNTIL_RAISED = 200


class PixelAllowance:
    """Halved by every lack of memory, doubled again after many batches without one."""

    def __init__(self, most_pixels: int) -> None:
        """Takes the bound that is set, and begins there."""
        self.num_pixels = most_pixels
        self._most_pixels = most_pixels
        self._num_good = 0

    def lower(self, num_pixels: int) -> None:
        """Says that a batch of so many padded pixels found too little memory."""
        self.num_pixels = max(1, min(self.num_pixels, num_pixels // 2))
        self._num_good = 0

    def note_success(self) -> None:
        """Says that a batch found enough memory."""
        self._num_good += 1
        if self._num_good >= BATCHES_UNTIL_RAISED:
            self.num_pixels = min(self._most_pixels, 2 * self.num_pixels)
            self._num_good = 0
