"""A real browser, and a real server with a registry for it to look at."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import FLAGS, PATIENCE_MS, Open, is_wrong
from console_world import prepare
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright
from programs import program

from salver.testing.process import ServerProcess


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """``fraud`` and ``churn``, registered and served."""
    folder: Path = tmp_path_factory.mktemp("console")
    asyncio.run(prepare(folder / "registry"))
    home = folder / "registry"
    with ServerProcess([], folder / "log", ["--registry", str(home)]) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def playwright(served: ServerProcess) -> Iterator[Playwright]:
    """Asked for last and closed first: while it runs, nobody else may run a loop in this thread."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """The system's Chromium, without what windows need: half of the work."""
    path = program("chromium-headless-shell")
    browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture
def opened(browser: Browser, served: ServerProcess) -> Iterator[Open]:
    """Opens a page of the console, and waits until it tells something; it must end without an error."""
    pages: list[Page] = []
    wrong: list[str] = []

    def go(path: str = "", *, theme: str = "light", width: int = 1280, url: str = served.url) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        pages.append(page)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if is_wrong(said) else None)
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{url}/console/{path}")
        page.locator("h1").wait_for()
        return page

    yield go
    for page in pages:
        page.unroute_all(behavior="ignoreErrors")  # what a route still fetches would fail the next test
        page.context.close()
    assert wrong == []
