from codefend.service.fairness import FairScheduler, PictureScheduler


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


def served(scheduler, waiting, num):
    """Who is served, in order, where all parts cost the same."""
    order = []
    for _ in range(num):
        flow = min((flow for flow, left in waiting.items() if left), key=scheduler.virtual_time)
        waiting[flow] -= 1
        scheduler.spend([(flow, 10)])
        order.append(flow)
    return order


def test_a_picture_in_tiles_and_the_whole_ones_of_its_caller_take_turns():
    scheduler, large, small = PictureScheduler(), ("ann", 1), ("ann", None)
    scheduler.arrive(large, set())
    assert served(scheduler, {large: 50}, 50) == [large] * 50
    scheduler.arrive(small, {large})
    order = served(scheduler, {large: 50, small: 3}, 7)
    assert order.count(small) == 3
    assert small in order[:2], "it waits for one tile at most"


def test_many_pictures_in_tiles_give_their_caller_no_larger_share():
    scheduler = PictureScheduler()
    flows = [("ann", number) for number in range(5)]
    for number, flow in enumerate(flows):
        scheduler.arrive(flow, set(flows[:number]))
    scheduler.arrive(("bob", None), set(flows))
    order = served(scheduler, dict.fromkeys([*flows, ("bob", None)], 100), 60)
    assert order.count(("bob", None)) == 30
    assert {order.count(flow) for flow in flows} == {6}


def test_flows_that_are_over_are_forgotten():
    scheduler = PictureScheduler()
    for number in range(100):
        scheduler.arrive(("ann", number), {("ann", number - 1)} if number else set())
        scheduler.spend([(("ann", number), 10)])
    assert len(scheduler._flows["ann"]._times) <= 2
