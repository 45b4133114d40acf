import pytest

from codefend.service.queueing.batching import regroup
from codefend.service.stages import BatchFailure


@pytest.mark.parametrize(
    ("num_images", "num_failures", "failure", "groups"),
    [
        (1, 1, BatchFailure.RAISED, [[0]]),
        (1, 2, BatchFailure.RAISED, []),
        (1, 1, BatchFailure.DIED, [[0]]),
        (1, 2, BatchFailure.HUNG, []),
        (5, 1, BatchFailure.RAISED, [[0, 1, 2], [3, 4]]),
        (2, 4, BatchFailure.OUT_OF_MEMORY, [[0], [1]]),
        (3, 1, BatchFailure.DIED, [[0, 1, 2]]),
        (3, 2, BatchFailure.DIED, [[0], [1], [2]]),
        (3, 2, BatchFailure.HUNG, [[0], [1], [2]]),
    ],
)
def test_which_images_are_tried_again_together(num_images, num_failures, failure, groups):
    assert [list(group) for group in regroup(num_images, num_failures, failure)] == groups


@pytest.mark.parametrize("failure", list(BatchFailure))
@pytest.mark.parametrize("bad", [0, 3, 7])
def test_the_image_at_fault_alone_is_given_up(failure, bad):
    given_up, num_workers_lost = [], 0
    todo = [(list(range(8)), 0)]
    while todo:
        batch, num_failures = todo.pop(0)
        if bad not in batch:
            continue
        num_workers_lost += failure.ended_worker
        groups = regroup(len(batch), num_failures + 1, failure)
        given_up += [] if groups else batch
        todo += [([batch[index] for index in group], num_failures + 1) for group in groups]
    assert given_up == [bad]
    assert num_workers_lost == (3 if failure.ended_worker else 0)
