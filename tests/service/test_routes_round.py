"""The routes of docs/limits.md that would go round the guard are not served here."""

import re
from pathlib import Path

import pytest

from tests.service.pictures import png

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
ROUTES = re.findall(r"^- \*\*[^*]*`(/v1/\w+)`", PAGE, re.MULTILINE)
UPGRADE = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_the_page_names_them():
    assert ROUTES == ["/v1/batches", "/v1/files", "/v1/realtime"]


@pytest.mark.parametrize("path", ROUTES)
def test_such_a_route_is_404_and_nothing_is_forwarded(service, upstream, path):
    answers = [
        service.client.get(path),
        service.client.post(path, json={"input_file_id": "file-1"}),
        service.client.post(path, files={"file": png()}),
        service.client.get(path, headers=UPGRADE),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert upstream.bodies == []
