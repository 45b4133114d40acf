import pytest

from codefend.service.admit.limits import MemoryBudget
from codefend.service.errors import OutOfMemory


def test_bytes_are_counted_and_no_more_than_there_are():
    memory = MemoryBudget(100)
    memory.take("ann", 60)
    with pytest.raises(OutOfMemory) as refusal:
        memory.take("ann", 41)
    assert int(refusal.value.headers()["Retry-After"]) >= 1
    memory.take("bob", 40)
    memory.give("ann", 60)
    memory.take("bob", 60)
    memory.give("bob", 100)
    assert memory.num_held == 0


def test_answers_count_however_long_they_are():
    memory = MemoryBudget(100)
    memory.note("ann", 500)
    with pytest.raises(OutOfMemory):
        memory.take("bob", 1)
    memory.give("ann", 500)
    memory.take("bob", 1)


def test_where_callers_share_it_one_that_floods_leaves_room():
    memory = MemoryBudget(100, lambda: True)
    memory.take("ann", 75)
    with pytest.raises(OutOfMemory):
        memory.take("ann", 1)
    memory.take("bob", 18)
    with pytest.raises(OutOfMemory):
        memory.take("bob", 3)
