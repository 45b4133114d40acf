"""Tables in Markdown, and rows laid out for them."""

from codefend.lab.experiments.table import Table, pivot

TABLE = Table(["defence", "n"], [["none", "4"], ["jpeg", "5"]])


def test_cells_stand_under_their_heads():
    assert TABLE.markdown() == "| defence | n |\n|---|---|\n| none | 4 |\n| jpeg | 5 |"


def test_transposed_shows_columns_as_lines():
    assert TABLE.transposed() == Table(("defence", "none", "jpeg"), [("n", "4", "5")])
    assert TABLE.transposed().transposed().markdown() == TABLE.markdown()


def test_pivot_keeps_order_and_the_first_of_equal_places():
    found = pivot(["b1", "a1", "a2", "a1"], lambda text: text[0], lambda text: text[1])
    assert list(found) == ["b", "a"]
    assert found["a"] == {"1": "a1", "2": "a2"}
