"""Debian's Chromium without a network, driven by Playwright; without either, the tests say so."""

import io
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
AXE = ROOT / ".venv" / "axe-core" / "package" / "axe.min.js"
SIZE = {"width": 1180, "height": 860}


def pytest_addoption(parser):
    parser.addoption("--shots", help="Folder in which screenshots are written anew.")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: make test-browser"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    # Root has no sandbox in a container; nothing but this machine has a name.
    flags = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens addresses in fresh profiles; afterwards no script failed, and nobody else was asked."""
    contexts, complaints, asked = [], [], set()

    def open_address(url, **options):
        context = browser.new_context(viewport=SIZE, **options)
        contexts.append(context)
        context.on("request", lambda request: asked.add(urlsplit(request.url)))
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", lambda said: complaints.append(said.text) if is_wrong(said) else None)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.goto(url)
        return page

    yield open_address
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.hostname for url in asked if url.scheme not in {"blob", "data"}} == {"127.0.0.1"}


def is_wrong(said):
    """Refusals are under test, and the console tells of each; a violated policy is a fault."""
    return said.type == "error" and not said.text.startswith("Failed to load resource")


@pytest.fixture
def shoot(request):
    """Writes a screenshot, where a folder for them was named."""
    folder = request.config.getoption("--shots", None)

    def shoot_page(page, name, **options):
        if folder is not None:
            png = page.screenshot(animations="disabled", **options)
            write_webp(png, Path(folder) / f"{name}.webp")

    return shoot_page


def write_webp(png, path):
    with Image.open(io.BytesIO(png)) as image:
        smaller = image.convert("RGB").resize((image.width * 3 // 4, image.height * 3 // 4))
        smaller.save(path, quality=45, method=6)  # a clone has to stay light


@pytest.fixture
def violations():
    """What axe-core finds on a page, as (rule, elements)."""
    if not AXE.exists():
        pytest.skip("axe-core is not there: make test-browser")
    code = AXE.read_text()

    def find(page):
        page.evaluate(code)  # beside the page's policy, as a debugger may
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 10
        return [(rule["id"], [n["html"] for n in rule["nodes"]]) for rule in found["violations"]]

    return find
