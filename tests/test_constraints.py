"""A fresh clone installs what is tested: every package that is needed is pinned."""

from tests.house.constraints import installed_versions, pinned_versions


def test_every_package_is_pinned_to_what_is_tested():
    assert pinned_versions() == installed_versions()
