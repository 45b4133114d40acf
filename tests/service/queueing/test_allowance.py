from codefend.service.queueing.estimates import BATCHES_UNTIL_RAISED, PixelAllowance


def test_it_is_halved_at_once_and_doubled_after_a_while():
    allowance = PixelAllowance(1000)
    allowance.lower(800)
    assert allowance.num_pixels == 400
    allowance.lower(800)
    assert allowance.num_pixels == 400, "never raised by a lack"
    for _ in range(BATCHES_UNTIL_RAISED - 1):
        allowance.note_success()
    assert allowance.num_pixels == 400
    allowance.note_success()
    assert allowance.num_pixels == 800
    for _ in range(BATCHES_UNTIL_RAISED):
        allowance.note_success()
    assert allowance.num_pixels == 1000, "never above what is set"
