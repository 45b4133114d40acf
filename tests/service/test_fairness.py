from codefend.service.fairness import FairScheduler


def test_the_lowest_goes_first_and_pays_by_pixels():
    turns = FairScheduler()
    turns.arrive("ann")
    turns.arrive("bob")
    turns.spend([("ann", 100), ("ann", 100)])
    assert turns.virtual_time("bob") < turns.virtual_time("ann")
    turns.spend([("bob", 300)])
    assert turns.virtual_time("ann") < turns.virtual_time("bob")


def test_nobody_saves_up_a_claim_by_staying_away():
    turns = FairScheduler()
    turns.arrive("ann")
    for _ in range(100):
        turns.spend([("ann", 10)])
    turns.arrive("bob")
    assert turns.virtual_time("bob") < turns.virtual_time("ann"), "his is the next turn"
    turns.spend([("bob", 11)])
    assert turns.virtual_time("ann") < turns.virtual_time("bob"), "and not the hundred after it"
