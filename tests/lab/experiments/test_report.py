"""Reports as pages: no line is wider than one, and nothing is lost."""

from codefend.lab.experiments.report import WIDTH, fit_page
from codefend.lab.experiments.table import Table

TABLE = Table(["defence", "n"], [["none", "4"], ["jpeg", "5"]])


def test_a_page_that_fits_stays_as_it_is():
    page = f"# Title\n\nOne sentence.\nAnother.\n\n{TABLE.markdown()}\n\n- an item"
    assert fit_page(page) == page


def test_prose_has_a_line_for_each_sentence_and_items_stay_items():
    assert fit_page("It is so. `That` is 1.5 so. > no") == "It is so.\n`That` is 1.5 so. > no"
    assert fit_page("- It is so. But not here.") == "- It is so.\n  But not here."
    assert fit_page("> - It is so. But not here.") == "> - It is so.\n>   But not here."
    long = fit_page(f"- {'word ' * 80}end")
    assert all(len(line) <= WIDTH for line in long.splitlines())
    assert long.replace("\n ", "") == f"- {'word ' * 80}end"


def test_a_wide_table_becomes_several_that_name_their_rows():
    heads = ["defence", "attack", *(f"column {i}" for i in range(12))]
    lines = [[defence, "apgd", *["97.7% [97.0%, 98.2%]"] * 12] for defence in ("none", "jpeg")]
    lines.append(["jpeg", "pgd", *[""] * 12])
    pages = [part.splitlines() for part in fit_page(Table(heads, lines).markdown()).split("\n\n")]
    assert len(pages) > 1
    assert all(len(line) <= WIDTH for page in pages for line in page)
    shown = [page[0].strip("| ").split(" | ") for page in pages]
    assert all(titles[:2] == ["defence", "attack"] for titles in shown)
    assert [title for titles in shown for title in titles[2:]] == heads[2:]
    assert all(page[4].startswith("| jpeg | pgd |") for page in pages)
    assert fit_page("\n\n".join("\n".join(page) for page in pages)).split("\n\n") == [
        "\n".join(page) for page in pages
    ]
