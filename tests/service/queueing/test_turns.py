from service.queueing.turns import Turns


def test_the_lowest_goes_first_and_pays_by_pixels():
    turns = Turns()
    turns.arrive("ann")
    turns.arrive("bob")
    turns.spend([("ann", 100), ("ann", 100)])
    assert turns.tag_of("bob") < turns.tag_of("ann")
    turns.spend([("bob", 300)])
    assert turns.tag_of("ann") < turns.tag_of("bob")


def test_nobody_saves_up_a_claim_by_staying_away():
    turns = Turns()
    turns.arrive("ann")
    for _ in range(100):
        turns.spend([("ann", 10)])
    turns.arrive("bob")
    assert turns.tag_of("bob") < turns.tag_of("ann"), "his is the next turn"
    turns.spend([("bob", 11)])
    assert turns.tag_of("ann") < turns.tag_of("bob"), "and not the hundred after it"
