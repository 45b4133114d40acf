"""What becomes of a batch that failed: pure, and the line carries it out.

Batches that raise are halved until the image at fault is alone: a try costs no more than its own
time, and what was too much for the device's memory soon fits. A worker that ends costs its
replacement, which takes longer than any batch, so tries are spared instead: the same batch runs
once more, for the worker may have been ended from outside, and if that ends the next one too, its
images run one by one, where only those at fault can do any further harm.
"""

from codefend.service.stages import BatchFailure

__all__ = ["regroup"]

# An image that fails this often, by itself in the end, is at fault.
MOST_FAILURES = 2


def regroup(num_images: int, num_failures: int, failure: BatchFailure) -> list[range]:
    """Says which images of a failed batch are tried again together.

    Args:
        num_images: Images of the batch, at least 1.
        num_failures: Batches of these images that failed, this one included.
        failure: How it failed.

    Returns:
        Indices into the batch, a range for each new batch; none if its image is given up.
    """
    if num_images == 1:
        return [] if num_failures >= MOST_FAILURES else [range(1)]
    if not failure.ended_worker:
        middle = (num_images + 1) // 2
        return [range(middle), range(middle, num_images)]
    if num_failures < MOST_FAILURES:
        return [range(num_images)]
    return [range(index, index + 1) for index in range(num_images)]
